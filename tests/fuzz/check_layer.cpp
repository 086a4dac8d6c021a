#include "check_layer.hpp"

#include <cstdlib>
#include <vector>

#include "tersor/pack_layer.hpp"

namespace tersor::fuzz {
namespace {

constexpr std::size_t max_bytes = std::size_t{1} << 22;
constexpr std::uint64_t max_multiplied = std::uint64_t{1} << 20;

void require(bool good) {
    if (!good) std::abort();
}

void check_product(const Layer& layer) {
    PackedMatrix packed;
    require(pack_layer(layer, packed).ok());
    require(packed.nonzeros() == csr::validate(layer.csr).count);
    const std::vector<float> x(std::size_t{2} * packed.cols(), 1.0F);
    std::vector<float> y(std::size_t{2} * packed.rows());
    spmm::multiply(packed, x, 2, {}, y);
}

}  // namespace

void check_layer(std::span<const std::uint8_t> blob) {
    Layer layer;
    const Result decoded = decode_layer(blob, layer, max_bytes);
    if (!decoded.ok()) {
        require(decoded.count <= blob.size());
        PackedMatrix packed;
        const Result result = pack_layer(blob, packed, max_bytes);
        require(result.status == Status::too_large ||  // what packing takes comes on top
                (result.status == decoded.status && result.count == decoded.count));
        return;
    }
    require(csr::validate(layer.csr).ok());
    LayerInfo info;
    require(inspect_layer(blob, info, true).ok());
    require(info.nonzeros == csr::validate(layer.csr).count);
    Layer again;
    require(decode_layer(encode_layer(layer), again).ok() && again == layer);
    const std::uint64_t lines = std::uint64_t{layer.csr.rows} + layer.csr.cols;
    if (lines > max_multiplied) return;
    check_product(layer);
    PackedMatrix packed;
    const Result result = pack_layer(blob, packed, max_bytes);
    require(result.ok() ? packed.nonzeros() == info.nonzeros : result.status == Status::too_large);
}

}  // namespace tersor::fuzz
