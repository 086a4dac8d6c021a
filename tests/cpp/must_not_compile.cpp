// Each MISTAKE is one that the compiler has to refuse; 0 is none, and has to compile: see
// CMakeLists.txt.
#include <string>
#include <utility>
#include <vector>

#include "tersor/container.hpp"
#include "tersor/csr.hpp"
#include "tersor/huffman.hpp"
#include "tersor/layer.hpp"
#include "tersor/pack_layer.hpp"
#include "tersor/spmm.hpp"

using namespace tersor;

File opened();
PackedMatrix packed();
RelativeCsr encoded();

void use(std::span<const std::uint8_t> bytes, std::vector<std::uint8_t>& symbols) {
    const File file = opened();
    const PackedMatrix matrix = packed();
    const RelativeCsr csr = encoded();
    [[maybe_unused]] const auto& tensors = file.tensors();
    [[maybe_unused]] const PackedMatrix& transposed = matrix.transposed();
    [[maybe_unused]] const CsrView view = csr;
    [[maybe_unused]] const Result result = huffman::decode(bytes, symbols);
#if MISTAKE == 1
    [[maybe_unused]] const auto& dangling = opened().tensors();
#elif MISTAKE == 2
    [[maybe_unused]] const TensorView* dangling = opened().find("weight");
#elif MISTAKE == 3
    [[maybe_unused]] const Metadata& dangling = opened().metadata();
#elif MISTAKE == 4
    [[maybe_unused]] const PackedMatrix& dangling = packed().transposed();
#elif MISTAKE == 5
    [[maybe_unused]] const CsrView dangling = encoded();
#elif MISTAKE == 6
    huffman::decode(bytes, symbols);  // what it says of the bytes is dropped
#elif MISTAKE == 7
    PackedMatrix target;
    spmm::pack(csr, std::vector<float>(2), target);
#elif MISTAKE == 8
    Layer layer;
    decode_layer(bytes, layer);
#elif MISTAKE == 9
    csr::validate(csr);
#elif MISTAKE == 10
    std::span<std::uint8_t> dangling = std::vector<std::uint8_t>(3);
#elif MISTAKE == 11
    spmm::multiply(matrix, FloatView(std::span<const float>()), 1, {},
                   FloatSpan(std::vector<float>(3)));  // y would be gone
#elif MISTAKE == 12
    const PackedMatrix copy = matrix;  // gigabytes, by accident
#elif MISTAKE != 0
#error "there is no such mistake"
#endif
}
