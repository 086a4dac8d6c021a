// Portable: ranges of activations, and transposition.
#include <algorithm>
#include <cmath>

#include "spmm/activations/kernels.hpp"

namespace tersor::spmm::activations {
namespace {

Range range_of(const float* x, std::size_t size) noexcept {
    Range range{0.0F, 0.0F, true};
    for (std::size_t k = 0; k < size; ++k) {
        range.low = std::min(range.low, x[k]);
        range.high = std::max(range.high, x[k]);
        range.finite &= std::isfinite(x[k]);
    }
    return range;
}

void transpose(const float* from, std::size_t from_stride, std::size_t rows, std::size_t cols,
               float* to, std::size_t to_stride) noexcept {
    for (std::size_t r = 0; r < rows; ++r) {
        for (std::size_t c = 0; c < cols; ++c) to[c * to_stride + r] = from[r * from_stride + c];
    }
}

}  // namespace

void install(dispatch::Level<Isa::scalar>, Kernels& kernels) noexcept {
    kernels.range = range_of;
    kernels.transpose = transpose;
}

}  // namespace tersor::spmm::activations
