// AVX-512: polynomials and exp in registers. For files that are compiled for the level: include it
// inside their target region.
#pragma once

#include <immintrin.h>

#include <array>
#include <cstddef>

#include "spmm/epilogue/formulas.hpp"

namespace tersor::spmm::epilogue {
namespace {  // NOLINT(google-build-namespaces): compiled anew for each file's target

template <std::size_t size>
__m512 polynomial(const std::array<float, size>& coefficients, __m512 x) noexcept {
    __m512 sum = _mm512_set1_ps(coefficients[size - 1]);
    for (std::size_t i = size - 1; i-- > 0;) {
        sum = _mm512_fmadd_ps(sum, x, _mm512_set1_ps(coefficients[i]));
    }
    return sum;
}

/// exp(x) for x <= 0; anything for NaN.
__m512 exp_negative(__m512 x) noexcept {
    x = _mm512_max_ps(x, _mm512_set1_ps(exp_floor));
    const __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(log2_e)), 0);
    __m512 r = _mm512_fnmadd_ps(n, _mm512_set1_ps(log2_high), x);
    r = _mm512_fnmadd_ps(n, _mm512_set1_ps(log2_low), r);
    return _mm512_scalef_ps(polynomial(exp_polynomial, r), n);
}

}  // namespace
}  // namespace tersor::spmm::epilogue
