// AVX-512: depthwise convolutions in fp32. A tile is up to 14 rows of 16 neighbouring columns; each
// row of the input is loaded once for each column of taps, and counts for all rows of taps.
#include "conv/kernels.hpp"
#include "dispatch/architecture.hpp"

#if TERSOR_AVX512

#include <immintrin.h>

#include <algorithm>

#include "dispatch/target_avx512.hpp"

namespace tersor::conv {
namespace {

/// The lanes whose place is in [begin, end).
__mmask16 lanes_in(std::int32_t begin, std::int32_t end) noexcept {
    const auto below = [](std::int32_t n) { return (1U << std::clamp(n, 0, 16)) - 1; };
    return static_cast<__mmask16>(below(end) & ~below(begin));
}

/// 16 columns, `stride` apart, of which `low` and `high` say what is inside the image.
template <int stride>
[[gnu::always_inline]] inline __m512 load_columns(const float* at, __mmask16 low,
                                                  __mmask16 high) noexcept {
    const __m512 first = _mm512_maskz_loadu_ps(low, at);
    if constexpr (stride == 1) return first;
    const __m512i even =
        _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    return _mm512_permutex2var_ps(first, even, _mm512_maskz_loadu_ps(high, at + lanes));
}

template <int size, int stride, int rows>
void one_tile(const DepthwiseShape& shape, const float* x, const float* weights,
              const Finishing& finishing, std::int32_t top, std::int32_t left, float* y) noexcept {
    constexpr int rows_read = (rows - 1) * stride + size;
    const std::int32_t first_row = top * stride - shape.padding_h;
    __m512 sums[rows];
#pragma GCC unroll 16
    for (__m512& sum : sums) sum = _mm512_setzero_ps();
#pragma GCC unroll 1
    for (int kx = 0; kx < size; ++kx) {
        __m512 w[size];
#pragma GCC unroll 8
        for (int ky = 0; ky < size; ++ky) w[ky] = _mm512_set1_ps(weights[ky * size + kx]);
        const std::int32_t column = left * stride + kx - shape.padding_w;
        const __mmask16 low = lanes_in(-column, shape.width - column);
        const __mmask16 high = lanes_in(-column - 16, shape.width - column - 16);
        const float* at = x + std::ptrdiff_t{first_row} * shape.width + column;
#pragma GCC unroll 64
        for (int i = 0; i < rows_read; ++i, at += shape.width) {
            const bool inside = static_cast<std::uint32_t>(first_row + i) <
                                static_cast<std::uint32_t>(shape.height);
            const __m512 v = load_columns<stride>(at, inside ? low : 0, inside ? high : 0);
#pragma GCC unroll 8
            for (int ky = 0; ky < size; ++ky) {
                if (i < ky || (i - ky) % stride != 0 || (i - ky) / stride >= rows) continue;
                __m512& sum = sums[(i - ky) / stride];
                sum = _mm512_fmadd_ps(v, w[ky], sum);
            }
        }
    }
    const __m512 offset = _mm512_set1_ps(finishing.offset);
    const __m512 least = _mm512_set1_ps(finishing.low);
    const __m512 most = _mm512_set1_ps(finishing.high);
    const __mmask16 valid = lanes_in(0, shape.output_width - left);
    float* to = y + std::ptrdiff_t{top} * shape.output_width + left;
#pragma GCC unroll 16
    for (int r = 0; r < rows; ++r, to += shape.output_width) {
        if (top + r >= shape.output_height) break;
        const __m512 v = _mm512_max_ps(least, _mm512_add_ps(sums[r], offset));
        _mm512_mask_storeu_ps(to, valid, _mm512_min_ps(most, v));  // in this order NaN stays
    }
}

template <int size, int stride>
void depthwise(const DepthwiseShape& shape, const float* x, const float* weights,
               const Finishing& finishing, float* y) noexcept {
    constexpr std::int32_t most_rows = 14;
    constexpr std::int32_t few_rows = 7;
    for (std::int32_t top = 0; top < shape.output_height;) {
        const bool few = shape.output_height - top <= few_rows;
        for (std::int32_t left = 0; left < shape.output_width; left += 16) {
            if (few) {
                one_tile<size, stride, few_rows>(shape, x, weights, finishing, top, left, y);
            } else {
                one_tile<size, stride, most_rows>(shape, x, weights, finishing, top, left, y);
            }
        }
        top += few ? few_rows : most_rows;
    }
}

}  // namespace

DepthwiseTable depthwise_avx512() noexcept {
    return {{{depthwise<3, 1>, depthwise<3, 2>}, {depthwise<5, 1>, depthwise<5, 2>}}};
}

}  // namespace tersor::conv

#include "dispatch/target_end.hpp"

#endif
