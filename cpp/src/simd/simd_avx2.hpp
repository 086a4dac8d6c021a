// AVX2: what README.md describes, in registers of 32 bytes. Opens the target region: include
// it after every other header, and close it with target_end.hpp.
#pragma once

#include <immintrin.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "dispatch/target_avx2.hpp"

namespace tersor::simd {
namespace {  // NOLINT(google-build-namespaces): compiled anew for each file's target

using F32 = __m256;
using I32 = __m256i;
using U64 = __m256i;
inline constexpr std::size_t width = 8;
inline constexpr std::size_t registers = 16;
inline constexpr bool has_masks = false;

inline __m256i first(std::size_t n) noexcept {
    const __m256i place = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(n)), place);
}

inline F32 zero() noexcept { return _mm256_setzero_ps(); }
inline F32 splat(float x) noexcept { return _mm256_set1_ps(x); }
inline F32 load(const float* from) noexcept { return _mm256_loadu_ps(from); }
inline void store(float* to, F32 x) noexcept { _mm256_storeu_ps(to, x); }
inline F32 load_part(const float* from, std::size_t n) noexcept {
    return _mm256_maskload_ps(from, first(n));
}
inline void store_part(float* to, F32 x, std::size_t n) noexcept {
    _mm256_maskstore_ps(to, first(n), x);
}

inline F32 fma(F32 a, F32 b, F32 c) noexcept { return _mm256_fmadd_ps(a, b, c); }
inline F32 fnma(F32 a, F32 b, F32 c) noexcept { return _mm256_fnmadd_ps(a, b, c); }
inline F32 min(F32 a, F32 b) noexcept { return _mm256_min_ps(a, b); }
inline F32 max(F32 a, F32 b) noexcept { return _mm256_max_ps(a, b); }
inline F32 magnitude(F32 x) noexcept { return _mm256_andnot_ps(_mm256_set1_ps(-0.0F), x); }
inline F32 where_negative(F32 x, F32 yes, F32 no) noexcept { return _mm256_blendv_ps(no, yes, x); }
inline F32 where_less(F32 a, F32 b, F32 yes, F32 no) noexcept {
    return _mm256_blendv_ps(no, yes, _mm256_cmp_ps(a, b, _CMP_LT_OQ));
}
inline F32 with_sign_of(F32 x, F32 magnitude) noexcept {
    return _mm256_or_ps(magnitude, _mm256_and_ps(x, _mm256_set1_ps(-0.0F)));
}
inline F32 round(F32 x) noexcept { return _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT); }
inline F32 power_of_two(I32 n) noexcept {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(n, _mm256_set1_epi32(127)), 23));
}
/// In two factors, for the result may be denormal.
inline F32 times_power_of_two(F32 x, F32 n) noexcept {
    const __m256i whole = _mm256_cvtps_epi32(n);
    const __m256i half = _mm256_srai_epi32(whole, 1);
    return x * power_of_two(half) * power_of_two(_mm256_sub_epi32(whole, half));
}

inline float sum(F32 x) noexcept {
    const __m128 half = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    const __m128 quarter = _mm_add_ps(half, _mm_movehl_ps(half, half));
    return _mm_cvtss_f32(_mm_add_ss(quarter, _mm_movehdup_ps(quarter)));
}
inline float least(F32 x) noexcept {
    const __m128 half = _mm_min_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    const __m128 quarter = _mm_min_ps(half, _mm_movehl_ps(half, half));
    return _mm_cvtss_f32(_mm_min_ss(quarter, _mm_movehdup_ps(quarter)));
}
inline float largest(F32 x) noexcept {
    const __m128 half = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    const __m128 quarter = _mm_max_ps(half, _mm_movehl_ps(half, half));
    return _mm_cvtss_f32(_mm_max_ss(quarter, _mm_movehdup_ps(quarter)));
}

inline F32 load_int8(const std::uint8_t* from) noexcept {
    const __m128i bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(from));
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes));
}
inline I32 load_bytes(const std::uint8_t* from) noexcept {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
}
inline I32 add_dots(I32 sums, I32 small, I32 bytes) noexcept {
    const __m256i pairs = _mm256_maddubs_epi16(small, bytes);
    return _mm256_add_epi32(sums, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}
inline I32 splat_int(std::int32_t x) noexcept { return _mm256_set1_epi32(x); }
inline I32 bits(F32 x) noexcept { return _mm256_castps_si256(x); }
inline I32 to_int(F32 x) noexcept { return _mm256_cvtps_epi32(x); }
inline I32 both(I32 a, I32 b) noexcept { return _mm256_and_si256(a, b); }
inline I32 max_int(I32 a, I32 b) noexcept { return _mm256_max_epi32(a, b); }
inline I32 shift_right(I32 x, int n) noexcept { return _mm256_srli_epi32(x, n); }
inline std::int32_t largest_int(I32 x) noexcept {
    __m128i four = _mm_max_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));
    four = _mm_max_epi32(four, _mm_shuffle_epi32(four, _MM_SHUFFLE(1, 0, 3, 2)));
    four = _mm_max_epi32(four, _mm_shuffle_epi32(four, _MM_SHUFFLE(2, 3, 0, 1)));
    return _mm_cvtsi128_si32(four);
}
inline double sum_ints(I32 x) noexcept {
    const __m256d four = _mm256_add_pd(_mm256_cvtepi32_pd(_mm256_castsi256_si128(x)),
                                       _mm256_cvtepi32_pd(_mm256_extracti128_si256(x, 1)));
    const __m128d two = _mm_add_pd(_mm256_castpd256_pd128(four), _mm256_extractf128_pd(four, 1));
    return _mm_cvtsd_f64(_mm_add_sd(two, _mm_unpackhi_pd(two, two)));
}
inline void store_low_bytes(std::uint8_t* to, I32 x) noexcept {
    // The low bytes of the numbers of each half, side by side.
    const __m256i low =
        _mm256_setr_epi8(0, 4, 8, 12, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, 0, 4, 8, 12,
                         -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1);
    const __m256i bytes = _mm256_shuffle_epi8(x, low);
    _mm_storel_epi64(
        reinterpret_cast<__m128i*>(to),
        _mm_unpacklo_epi32(_mm256_castsi256_si128(bytes), _mm256_extracti128_si256(bytes, 1)));
}

inline F32 gather(const float* from, const std::uint16_t* at) noexcept {
    const __m128i index = _mm_loadu_si128(reinterpret_cast<const __m128i*>(at));
    return _mm256_i32gather_ps(from, _mm256_cvtepu16_epi32(index), 4);
}
inline F32 look_up(const float* table, const std::uint8_t* codes) noexcept {
    const __m128i bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(codes));
    return _mm256_i32gather_ps(table, _mm256_cvtepu8_epi32(bytes), 4);
}

inline F32 gather_part(const float* from, const std::uint16_t* at, std::size_t n) noexcept {
    float part[width] = {};
    for (std::size_t i = 0; i < n; ++i) part[i] = from[at[i]];
    return load(part);
}
inline F32 look_up_part(const float* table, const std::uint8_t* codes, std::size_t n) noexcept {
    float part[width] = {};
    for (std::size_t i = 0; i < n; ++i) part[i] = table[codes[i]];
    return load(part);
}

inline F32 load_bfloat16(const std::uint16_t* from) noexcept {
    const __m128i x = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(x), 16));
}
inline void store_bfloat16(std::uint16_t* to, F32 x) noexcept {
    const __m256i upper = _mm256_srli_epi32(bits(x), 16);
    const __m256i odd = _mm256_and_si256(upper, _mm256_set1_epi32(1));
    __m256i rounded = _mm256_add_epi32(bits(x), _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
    rounded = _mm256_srli_epi32(rounded, 16);
    const __m256i nan = bits(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
    const __m256i quiet = _mm256_or_si256(upper, _mm256_set1_epi32(0x40));
    const __m256i chosen = _mm256_blendv_epi8(rounded, quiet, nan);
    _mm_storeu_si128(
        reinterpret_cast<__m128i*>(to),
        _mm_packus_epi32(_mm256_castsi256_si128(chosen), _mm256_extracti128_si256(chosen, 1)));
}
inline F32 load_bfloat16_part(const std::uint16_t* from, std::size_t n) noexcept {
    std::uint16_t part[width] = {};
    std::memcpy(part, from, n * sizeof *from);
    return load_bfloat16(part);
}
inline void store_bfloat16_part(std::uint16_t* to, F32 x, std::size_t n) noexcept {
    std::uint16_t part[width];
    store_bfloat16(part, x);
    std::memcpy(to, part, n * sizeof *to);
}

inline void transpose(F32 (&r)[8]) noexcept {
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

inline U64 load_u64(const void* from) noexcept {
    return _mm256_loadu_si256(static_cast<const __m256i*>(from));
}
inline void store_u64(void* to, U64 x) noexcept {
    _mm256_storeu_si256(static_cast<__m256i*>(to), x);
}
inline U64 exclusive_or(U64 a, U64 b) noexcept { return _mm256_xor_si256(a, b); }
inline U64 add(U64 a, U64 b) noexcept { return _mm256_add_epi64(a, b); }
template <int n>
U64 shift_right(U64 x) noexcept {
    return _mm256_srli_epi64(x, n);
}
inline U64 swap_neighbours(U64 x) noexcept {
    return _mm256_shuffle_epi32(x, _MM_SHUFFLE(1, 0, 3, 2));
}
inline U64 multiply_halves(U64 x) noexcept { return _mm256_mul_epu32(x, _mm256_srli_epi64(x, 32)); }
inline U64 multiply(U64 x, std::uint32_t y) noexcept {
    const __m256i factor = _mm256_set1_epi64x(y);
    const __m256i high = _mm256_mul_epu32(_mm256_srli_epi64(x, 32), factor);
    return _mm256_add_epi64(_mm256_mul_epu32(x, factor), _mm256_slli_epi64(high, 32));
}

}  // namespace
}  // namespace tersor::simd
