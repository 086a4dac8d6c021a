// Polynomials and exp in registers. Included inside a target region, after its simd_<isa>.hpp.
#pragma once

#include <array>
#include <cstddef>

#include "spmm/epilogue/formulas.hpp"

namespace tersor::spmm::epilogue {
namespace {  // NOLINT(google-build-namespaces): compiled anew for each level

using simd::F32;

template <std::size_t size>
F32 polynomial(const std::array<float, size>& coefficients, F32 x) noexcept {
    F32 sum = simd::splat(coefficients[size - 1]);
    for (std::size_t i = size - 1; i-- > 0;) sum = simd::fma(sum, x, simd::splat(coefficients[i]));
    return sum;
}

/// exp(x) for x <= 0; NaN for NaN, which is the second operand of the maximum.
inline F32 exp_negative(F32 x) noexcept {
    x = simd::max(simd::splat(exp_floor), x);
    const F32 n = simd::round(x * simd::splat(log2_e));
    F32 r = simd::fnma(n, simd::splat(log2_high), x);
    r = simd::fnma(n, simd::splat(log2_low), r);
    return simd::times_power_of_two(polynomial(exp_polynomial, r), n);
}

}  // namespace
}  // namespace tersor::spmm::epilogue
