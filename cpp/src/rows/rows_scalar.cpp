#include "rows/kernels.hpp"

namespace tersor::rows {
namespace {

void decode_row(const std::uint8_t* codes, const Codebook& codebook, float factor, std::size_t size,
                float* out) noexcept {
    const auto bits = static_cast<unsigned>(codebook.bits);
    const unsigned mask = (1U << bits) - 1;
    for (std::size_t i = 0; i < size; i += group) {
        std::uint64_t word = 0;  // of a group, the first code lowest
        for (unsigned b = 0; b < bits; ++b) word |= std::uint64_t{*codes++} << (8 * b);
        const std::size_t end = size - i < group ? size - i : group;
        for (std::size_t j = 0; j < end; ++j, word >>= bits) {
            out[i + j] = factor * codebook.values[word & mask];
        }
    }
}

}  // namespace

void install(dispatch::Level<Isa::scalar>, Kernels& kernels) noexcept {
    kernels.decode_row = decode_row;
}

}  // namespace tersor::rows
