#include "csr/kernels.hpp"

namespace tersor::csr {
namespace {

void nonzero_bitmap(const std::uint8_t* codes, std::size_t size, std::uint64_t* bits) noexcept {
    for (std::size_t start = 0; start < size; start += 64) {
        const std::size_t end = start + 64 < size ? start + 64 : size;
        std::uint64_t word = 0;
        for (std::size_t i = start; i < end; ++i) {
            word |= std::uint64_t{codes[i] != 0} << (i - start);
        }
        bits[start / 64] = word;
    }
}

}  // namespace

void install_scalar(Kernels& kernels) noexcept { kernels.nonzero_bitmap = nonzero_bitmap; }

}  // namespace tersor::csr
