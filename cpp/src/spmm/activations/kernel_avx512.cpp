// AVX-512: activations as limbs of 8 bits, and transposition.
#include "dispatch/architecture.hpp"
#include "spmm/activations/kernels.hpp"

#if TERSOR_AVX512

#include <immintrin.h>

#include <algorithm>

#include "dispatch/target_avx512.hpp"

#include "spmm/activations/transpose_avx512.hpp"

namespace tersor::spmm::activations {
namespace {

Range range_of(const float* x, std::size_t size) noexcept {
    const __m512i magnitude = _mm512_set1_epi32(0x7fffffff);
    __m512 low = _mm512_setzero_ps();
    __m512 high = _mm512_setzero_ps();
    __m512i largest = _mm512_setzero_si512();
    for (std::size_t k = 0; k < size; k += 16) {
        const auto valid = static_cast<__mmask16>(size - k < 16 ? (1U << (size - k)) - 1 : 0xffff);
        const __m512 v = _mm512_maskz_loadu_ps(valid, x + k);
        low = _mm512_min_ps(low, v);
        high = _mm512_max_ps(high, v);
        largest = _mm512_max_epi32(largest, _mm512_and_si512(_mm512_castps_si512(v), magnitude));
    }
    constexpr int infinity = 0x7f800000;
    return {_mm512_reduce_min_ps(low), _mm512_reduce_max_ps(high),
            _mm512_reduce_max_epi32(largest) < infinity};
}

template <int count>
void split(const float* x, std::size_t size, float low, float scale, std::uint8_t* limbs,
           std::size_t stride) noexcept {
    for (std::size_t k = 0; k < size; k += 16) {
        const auto valid = static_cast<__mmask16>(size - k < 16 ? (1U << (size - k)) - 1 : 0xffff);
        const __m512 v = _mm512_sub_ps(_mm512_maskz_loadu_ps(valid, x + k), _mm512_set1_ps(low));
        const __m512i fixed = _mm512_cvtps_epi32(_mm512_mul_ps(v, _mm512_set1_ps(scale)));
        for (int p = 0; p < count; ++p) {
            const __m512i limb = _mm512_srli_epi32(fixed, static_cast<unsigned>(8 * p));
            _mm_storeu_si128(
                reinterpret_cast<__m128i*>(limbs + static_cast<std::size_t>(p) * stride + k),
                _mm512_cvtepi32_epi8(limb));
        }
    }
}

/// Four limbs: more than fp32 can scale.
void split_4(const float* x, std::size_t size, float low, float scale, std::uint8_t* limbs,
             std::size_t stride) noexcept {
    const __m512d origin = _mm512_set1_pd(double{low});
    const __m512d factor = _mm512_set1_pd(double{scale});
    for (std::size_t k = 0; k < size; k += 8) {
        const auto valid = static_cast<__mmask8>(size - k < 8 ? (1U << (size - k)) - 1 : 0xff);
        const __m512d v = _mm512_cvtps_pd(_mm256_maskz_loadu_ps(valid, x + k));
        const __m256i fixed = _mm512_cvtpd_epu32(_mm512_mul_pd(_mm512_sub_pd(v, origin), factor));
        for (int p = 0; p < 4; ++p) {
            const __m256i limb = _mm256_srli_epi32(fixed, 8 * p);
            _mm_storel_epi64(
                reinterpret_cast<__m128i*>(limbs + static_cast<std::size_t>(p) * stride + k),
                _mm256_cvtepi32_epi8(limb));
        }
    }
}

void split_activations(const float* x, std::size_t size, float low, float scale, int count,
                       std::uint8_t* limbs, std::size_t stride) noexcept {
    if (count == 1) split<1>(x, size, low, scale, limbs, stride);
    if (count == 2) split<2>(x, size, low, scale, limbs, stride);
    if (count == 3) split<3>(x, size, low, scale, limbs, stride);
    if (count == 4) split_4(x, size, low, scale, limbs, stride);
}

/// Up to 16 x 16.
void transpose_square(const float* from, std::size_t from_stride, std::size_t rows,
                      std::size_t cols, float* to, std::size_t to_stride) noexcept {
    const auto row_mask = static_cast<__mmask16>((1U << rows) - 1);
    const auto col_mask = static_cast<__mmask16>((1U << cols) - 1);
    __m512 registers[16];
    for (std::size_t i = 0; i < 16; ++i) {
        registers[i] = i < rows ? _mm512_maskz_loadu_ps(col_mask, from + i * from_stride)
                                : _mm512_setzero_ps();
    }
    transpose_registers(registers);
    for (std::size_t i = 0; i < cols; ++i) {
        _mm512_mask_storeu_ps(to + i * to_stride, row_mask, registers[i]);
    }
}

/// Along the longer side, so that 16 streams are read or written from end to end. Those that are
/// written, whose lines would each be waited for, are fetched ahead.
void transpose(const float* from, std::size_t from_stride, std::size_t rows, std::size_t cols,
               float* to, std::size_t to_stride) noexcept {
    constexpr std::size_t side = 16;
    constexpr std::size_t floats_ahead = 64;
    const auto square = [&](std::size_t r, std::size_t c) {
        for (std::size_t i = 0; rows >= cols && i < side; ++i) {
            __builtin_prefetch(to + (c + i) * to_stride + r + floats_ahead, 1);
        }
        transpose_square(from + r * from_stride + c, from_stride, std::min(side, rows - r),
                         std::min(side, cols - c), to + c * to_stride + r, to_stride);
    };
    if (rows < cols) {
        for (std::size_t r = 0; r < rows; r += side) {
            for (std::size_t c = 0; c < cols; c += side) square(r, c);
        }
    } else {
        for (std::size_t c = 0; c < cols; c += side) {
            for (std::size_t r = 0; r < rows; r += side) square(r, c);
        }
    }
}

void scale(const void* x, FloatType type, const float* factors, std::size_t size,
           float* to) noexcept {
    for (std::size_t i = 0; i < size; i += 16) {
        const auto valid = static_cast<__mmask16>(size - i < 16 ? (1U << (size - i)) - 1 : 0xffff);
        __m512 v = _mm512_setzero_ps();
        if (type == FloatType::float32) {
            v = _mm512_maskz_loadu_ps(valid, static_cast<const float*>(x) + i);
        } else {
            const auto* const bits = static_cast<const BFloat16*>(x) + i;
            const __m512i wide = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(valid, bits));
            v = _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
        }
        v = _mm512_mul_ps(v, _mm512_maskz_loadu_ps(valid, factors + i));
        _mm512_mask_storeu_ps(to + i, valid, v);
    }
}

}  // namespace

void install(dispatch::Level<Isa::avx512>, Kernels& kernels) noexcept {
    kernels = {range_of, split_activations, transpose, scale};
}

}  // namespace tersor::spmm::activations

#include "dispatch/target_end.hpp"

#endif
