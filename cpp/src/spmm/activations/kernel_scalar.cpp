// Portable: ranges of activations, and transposition.
#include <algorithm>
#include <bit>
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

void scale(const void* x, FloatType type, const float* factors, std::size_t size,
           float* to) noexcept {
    if (type == FloatType::float32) {
        const auto* from = static_cast<const float*>(x);
        for (std::size_t i = 0; i < size; ++i) to[i] = from[i] * factors[i];
        return;
    }
    const auto* from = static_cast<const BFloat16*>(x);
    for (std::size_t i = 0; i < size; ++i) {
        to[i] = std::bit_cast<float>(std::uint32_t{from[i].bits} << 16U) * factors[i];
    }
}

}  // namespace

void install(dispatch::Level<Isa::scalar>, Kernels& kernels) noexcept {
    kernels.range = range_of;
    kernels.transpose = transpose;
    kernels.scale = scale;
}

}  // namespace tersor::spmm::activations
