// AVX2: activations as limbs of 7 bits, and transposition.
#include "dispatch/architecture.hpp"
#include "spmm/activations/kernels.hpp"
#include "spmm/sell/layout.hpp"

#if TERSOR_X86

#include <immintrin.h>

#include <algorithm>
#include <bit>

#include "dispatch/target_avx2.hpp"

namespace tersor::spmm::activations {
namespace {

constexpr int limb_bits = sell_avx2.limb_bits;
constexpr std::size_t lane = 16;  // bytes that one shuffle of the layout sell looks up

Range range_of(const float* x, std::size_t size) noexcept {
    const __m256i magnitude = _mm256_set1_epi32(0x7fffffff);
    __m256 low = _mm256_setzero_ps();
    __m256 high = _mm256_setzero_ps();
    __m256i largest = _mm256_setzero_si256();
    std::size_t k = 0;
    for (; k + 8 <= size; k += 8) {
        const __m256 v = _mm256_loadu_ps(x + k);
        low = _mm256_min_ps(low, v);
        high = _mm256_max_ps(high, v);
        largest = _mm256_max_epi32(largest, _mm256_and_si256(_mm256_castps_si256(v), magnitude));
    }
    alignas(32) float lows[8], highs[8];
    alignas(32) std::int32_t magnitudes[8];
    _mm256_store_ps(lows, low);
    _mm256_store_ps(highs, high);
    _mm256_store_si256(reinterpret_cast<__m256i*>(magnitudes), largest);
    constexpr std::int32_t infinity = 0x7f800000;
    Range range{0.0F, 0.0F, true};
    for (int i = 0; i < 8; ++i) {
        range.low = std::min(range.low, lows[i]);
        range.high = std::max(range.high, highs[i]);
        range.finite &= magnitudes[i] < infinity;
    }
    for (; k < size; ++k) {
        range.low = std::min(range.low, x[k]);
        range.high = std::max(range.high, x[k]);
        range.finite &= __builtin_isfinite(x[k]) != 0;
    }
    return range;
}

void split_activations(const float* x, std::size_t size, float low, float scale, int count,
                       std::uint8_t* limbs, std::size_t stride) noexcept {
    const __m256 origin = _mm256_set1_ps(low);
    const __m256 factor = _mm256_set1_ps(scale);
    const __m256i mask = _mm256_set1_epi32((1 << limb_bits) - 1);
    // The low bytes of the 32-bit numbers of each half, side by side.
    const __m256i first_bytes =
        _mm256_setr_epi8(0, 4, 8, 12, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, 0, 4, 8, 12,
                         -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1);
    std::size_t k = 0;
    for (; k + 8 <= size; k += 8) {
        const __m256 v = _mm256_sub_ps(_mm256_loadu_ps(x + k), origin);
        __m256i fixed = _mm256_cvtps_epi32(_mm256_mul_ps(v, factor));
        for (int p = 0; p < count; ++p) {
            const __m256i bytes = _mm256_shuffle_epi8(_mm256_and_si256(fixed, mask), first_bytes);
            const __m128i eight = _mm_unpacklo_epi32(_mm256_castsi256_si128(bytes),
                                                     _mm256_extracti128_si256(bytes, 1));
            _mm_storel_epi64(
                reinterpret_cast<__m128i*>(limbs + static_cast<std::size_t>(p) * stride + k),
                eight);
            fixed = _mm256_srli_epi32(fixed, limb_bits);
        }
    }
    for (; k < size; ++k) {
        const __m128 v = _mm_mul_ss(_mm_sub_ss(_mm_set_ss(x[k]), _mm256_castps256_ps128(origin)),
                                    _mm256_castps256_ps128(factor));
        auto fixed = static_cast<unsigned>(_mm_cvtss_si32(v));
        for (int p = 0; p < count; ++p, fixed >>= limb_bits) {
            limbs[static_cast<std::size_t>(p) * stride + k] =
                static_cast<std::uint8_t>(fixed & ((1U << limb_bits) - 1));
        }
    }
    const std::size_t size_of_all = static_cast<std::size_t>(count) * stride;
    for (std::size_t i = 0; i < size_of_all; i += 2 * lane) {
        const __m256i next = _mm256_loadu_si256(reinterpret_cast<__m256i*>(limbs + i + lane));
        _mm256_store_si256(
            reinterpret_cast<__m256i*>(limbs + size_of_all + i),
            _mm256_xor_si256(_mm256_load_si256(reinterpret_cast<__m256i*>(limbs + i)), next));
    }
}

void transpose_registers(__m256 (&r)[8]) noexcept {
    __m256 t[8];
    for (int i = 0; i < 4; ++i) {
        t[2 * i] = _mm256_unpacklo_ps(r[2 * i], r[2 * i + 1]);
        t[2 * i + 1] = _mm256_unpackhi_ps(r[2 * i], r[2 * i + 1]);
    }
    for (int i = 0; i < 2; ++i) {
        for (int k = 0; k < 2; ++k) {
            r[4 * i + 2 * k] = _mm256_shuffle_ps(t[4 * i + k], t[4 * i + 2 + k], 0x44);
            r[4 * i + 2 * k + 1] = _mm256_shuffle_ps(t[4 * i + k], t[4 * i + 2 + k], 0xee);
        }
    }
    for (int i = 0; i < 4; ++i) {
        const __m256 low = _mm256_permute2f128_ps(r[i], r[4 + i], 0x20);
        t[4 + i] = _mm256_permute2f128_ps(r[i], r[4 + i], 0x31);
        t[i] = low;
    }
    for (int i = 0; i < 8; ++i) r[i] = t[i];
}

/// Along the longer side, so that 8 streams are read or written from end to end.
void transpose(const float* from, std::size_t from_stride, std::size_t rows, std::size_t cols,
               float* to, std::size_t to_stride) noexcept {
    constexpr std::size_t side = 8;
    const std::size_t whole_rows = rows / side * side;
    const std::size_t whole_cols = cols / side * side;
    const auto square = [&](std::size_t r, std::size_t c) {
        __m256 registers[side];
        for (std::size_t i = 0; i < side; ++i) {
            registers[i] = _mm256_loadu_ps(from + (r + i) * from_stride + c);
        }
        transpose_registers(registers);
        for (std::size_t i = 0; i < side; ++i) {
            _mm256_storeu_ps(to + (c + i) * to_stride + r, registers[i]);
        }
    };
    if (rows < cols) {
        for (std::size_t r = 0; r < whole_rows; r += side) {
            for (std::size_t c = 0; c < whole_cols; c += side) square(r, c);
        }
    } else {
        for (std::size_t c = 0; c < whole_cols; c += side) {
            for (std::size_t r = 0; r < whole_rows; r += side) square(r, c);
        }
    }
    for (std::size_t r = 0; r < rows; ++r) {
        for (std::size_t c = r < whole_rows ? whole_cols : 0; c < cols; ++c) {
            to[c * to_stride + r] = from[r * from_stride + c];
        }
    }
}

void scale(const void* x, FloatType type, const float* factors, std::size_t size,
           float* to) noexcept {
    const auto read = [&](std::size_t i) {
        if (type == FloatType::float32) return _mm256_loadu_ps(static_cast<const float*>(x) + i);
        const auto* const bits = static_cast<const BFloat16*>(x) + i;
        const __m128i narrow = _mm_loadu_si128(reinterpret_cast<const __m128i*>(bits));
        return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(narrow), 16));
    };
    std::size_t i = 0;
    for (; i + 8 <= size; i += 8) {
        _mm256_storeu_ps(to + i, _mm256_mul_ps(read(i), _mm256_loadu_ps(factors + i)));
    }
    for (; i < size; ++i) {
        to[i] = factors[i] *
                (type == FloatType::float32
                     ? static_cast<const float*>(x)[i]
                     : std::bit_cast<float>(std::uint32_t{static_cast<const BFloat16*>(x)[i].bits}
                                            << 16U));
    }
}

}  // namespace

void install(dispatch::Level<Isa::avx2>, Kernels& kernels) noexcept {
    kernels = {range_of, split_activations, transpose, scale};
}

}  // namespace tersor::spmm::activations

#include "dispatch/target_end.hpp"

#endif
