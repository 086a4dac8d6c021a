// AVX2: polynomials and exp in registers. For files that are compiled for the level: include it
// inside their target region.
#pragma once

#include <immintrin.h>

#include <array>
#include <cstddef>

#include "spmm/epilogue/formulas.hpp"

namespace tersor::spmm::epilogue {
namespace {  // NOLINT(google-build-namespaces): compiled anew for each file's target

template <std::size_t size>
__m256 polynomial(const std::array<float, size>& coefficients, __m256 x) noexcept {
    __m256 sum = _mm256_set1_ps(coefficients[size - 1]);
    for (std::size_t i = size - 1; i-- > 0;) {
        sum = _mm256_fmadd_ps(sum, x, _mm256_set1_ps(coefficients[i]));
    }
    return sum;
}

__m256 power_of_two(__m256i n) noexcept {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(n, _mm256_set1_epi32(127)), 23));
}

/// exp(x) for x <= 0; anything for NaN. 2^n in two factors, for it may be denormal.
__m256 exp_negative(__m256 x) noexcept {
    x = _mm256_max_ps(x, _mm256_set1_ps(exp_floor));
    const __m256i n = _mm256_cvtps_epi32(_mm256_mul_ps(x, _mm256_set1_ps(log2_e)));
    const __m256 whole = _mm256_cvtepi32_ps(n);
    __m256 r = _mm256_fnmadd_ps(whole, _mm256_set1_ps(log2_high), x);
    r = _mm256_fnmadd_ps(whole, _mm256_set1_ps(log2_low), r);
    const __m256i half = _mm256_srai_epi32(n, 1);
    const __m256 scaled = _mm256_mul_ps(polynomial(exp_polynomial, r), power_of_two(half));
    return _mm256_mul_ps(scaled, power_of_two(_mm256_sub_epi32(n, half)));
}

}  // namespace
}  // namespace tersor::spmm::epilogue
