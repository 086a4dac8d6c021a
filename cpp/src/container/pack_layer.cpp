#include "tersor/pack_layer.hpp"

#include <algorithm>
#include <vector>

namespace tersor {

Result pack_layer(const Layer& layer, PackedMatrix& packed, int threads) {
    if (!is_shared(layer.kind)) return spmm::pack_values(layer.csr, layer.values, packed);
    std::vector<float> codebook(layer.values.size() + 1);
    std::copy(layer.values.begin(), layer.values.end(), codebook.begin() + 1);
    const Regime regime = layer.shape.size() == 2 ? Regime::vector : Regime::batch;
    return spmm::pack(layer.csr, codebook, packed, regime, threads);
}

Result pack_layer(std::span<const std::uint8_t> blob, PackedMatrix& packed, std::size_t max_bytes,
                  int threads) {
    Layer layer;
    const Result decoded = decode_layer(blob, layer, max_bytes, threads);
    return decoded.ok() ? pack_layer(layer, packed, threads) : decoded;
}

}  // namespace tersor
