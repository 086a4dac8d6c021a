// AVX-512: what README.md describes, in registers of 64 bytes, with masks for parts of them. Opens
// the target region: include it after every other header, and close it with target_end.hpp.
#pragma once

#include <immintrin.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "dispatch/target_avx512.hpp"

namespace tersor::simd {
namespace {  // NOLINT(google-build-namespaces): compiled anew for each file's target

using F32 = __m512;
using I32 = __m512i;
using U64 = __m512i;
inline constexpr std::size_t width = 16;
inline constexpr std::size_t registers = 32;
inline constexpr bool has_masks = true;

inline __mmask16 first(std::size_t n) noexcept { return static_cast<__mmask16>((1U << n) - 1); }

inline F32 zero() noexcept { return _mm512_setzero_ps(); }
inline F32 splat(float x) noexcept { return _mm512_set1_ps(x); }
inline F32 load(const float* from) noexcept { return _mm512_loadu_ps(from); }
inline void store(float* to, F32 x) noexcept { _mm512_storeu_ps(to, x); }
inline F32 load_part(const float* from, std::size_t n) noexcept {
    return _mm512_maskz_loadu_ps(first(n), from);
}
inline void store_part(float* to, F32 x, std::size_t n) noexcept {
    _mm512_mask_storeu_ps(to, first(n), x);
}

inline F32 fma(F32 a, F32 b, F32 c) noexcept { return _mm512_fmadd_ps(a, b, c); }
inline F32 fnma(F32 a, F32 b, F32 c) noexcept { return _mm512_fnmadd_ps(a, b, c); }
inline F32 min(F32 a, F32 b) noexcept { return _mm512_min_ps(a, b); }
inline F32 max(F32 a, F32 b) noexcept { return _mm512_max_ps(a, b); }
inline F32 magnitude(F32 x) noexcept { return _mm512_abs_ps(x); }
inline F32 where_negative(F32 x, F32 yes, F32 no) noexcept {
    return _mm512_mask_blend_ps(_mm512_movepi32_mask(_mm512_castps_si512(x)), no, yes);
}
inline F32 where_less(F32 a, F32 b, F32 yes, F32 no) noexcept {
    return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(a, b, _CMP_LT_OQ), no, yes);
}
inline F32 with_sign_of(F32 x, F32 magnitude) noexcept {
    return _mm512_or_ps(magnitude, _mm512_and_ps(x, _mm512_set1_ps(-0.0F)));
}
inline F32 round(F32 x) noexcept { return _mm512_roundscale_ps(x, 0); }
inline F32 times_power_of_two(F32 x, F32 n) noexcept { return _mm512_scalef_ps(x, n); }

inline float sum(F32 x) noexcept { return _mm512_reduce_add_ps(x); }
inline float least(F32 x) noexcept { return _mm512_reduce_min_ps(x); }
inline float largest(F32 x) noexcept { return _mm512_reduce_max_ps(x); }

inline F32 load_int8(const std::uint8_t* from) noexcept {
    const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(bytes));
}
inline I32 load_bytes(const std::uint8_t* from) noexcept { return _mm512_loadu_si512(from); }
inline I32 add_dots(I32 sums, I32 small, I32 bytes) noexcept {
    return _mm512_dpbusd_epi32(sums, small, bytes);
}
inline I32 splat_int(std::int32_t x) noexcept { return _mm512_set1_epi32(x); }
inline I32 bits(F32 x) noexcept { return _mm512_castps_si512(x); }
inline I32 to_int(F32 x) noexcept { return _mm512_cvtps_epi32(x); }
inline I32 both(I32 a, I32 b) noexcept { return _mm512_and_si512(a, b); }
inline I32 max_int(I32 a, I32 b) noexcept { return _mm512_max_epi32(a, b); }
inline I32 shift_right(I32 x, int n) noexcept {
    return _mm512_srli_epi32(x, static_cast<unsigned>(n));
}
inline std::int32_t largest_int(I32 x) noexcept { return _mm512_reduce_max_epi32(x); }
inline double sum_ints(I32 x) noexcept {
    return _mm512_reduce_add_pd(_mm512_add_pd(_mm512_cvtepi32_pd(_mm512_castsi512_si256(x)),
                                              _mm512_cvtepi32_pd(_mm512_extracti64x4_epi64(x, 1))));
}
inline void store_low_bytes(std::uint8_t* to, I32 x) noexcept {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm512_cvtepi32_epi8(x));
}

inline F32 gather(const float* from, const std::uint16_t* at) noexcept {
    const __m256i index = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(at));
    return _mm512_i32gather_ps(_mm512_cvtepu16_epi32(index), from, 4);
}
inline F32 gather_part(const float* from, const std::uint16_t* at, std::size_t n) noexcept {
    const __m256i index = _mm256_maskz_loadu_epi16(first(n), at);
    return _mm512_mask_i32gather_ps(zero(), first(n), _mm512_cvtepu16_epi32(index), from, 4);
}
/// Of a table of 256 values, the first 16 of which are looked up inside a register.
inline F32 look_up(const float* table, __m128i codes) noexcept {
    const __m512i index = _mm512_cvtepu8_epi32(codes);
    const __m512 first_16 = _mm512_permutexvar_ps(index, _mm512_loadu_ps(table));
    const __mmask16 beyond = _mm512_cmpgt_epu32_mask(index, _mm512_set1_epi32(15));
    if (beyond == 0) return first_16;
    return _mm512_mask_i32gather_ps(first_16, beyond, index, table, 4);
}
inline F32 look_up(const float* table, const std::uint8_t* codes) noexcept {
    return look_up(table, _mm_loadu_si128(reinterpret_cast<const __m128i*>(codes)));
}
inline F32 look_up_part(const float* table, const std::uint8_t* codes, std::size_t n) noexcept {
    return look_up(table, _mm_maskz_loadu_epi8(first(n), codes));
}

inline F32 widen(__m256i x) noexcept {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(x), 16));
}
inline F32 load_bfloat16(const std::uint16_t* from) noexcept {
    return widen(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
}
inline F32 load_bfloat16_part(const std::uint16_t* from, std::size_t n) noexcept {
    return widen(_mm256_maskz_loadu_epi16(first(n), from));
}
inline __m256i narrow(F32 x) noexcept {
    const __m512i upper = _mm512_srli_epi32(bits(x), 16);
    const __m512i odd = _mm512_and_si512(upper, _mm512_set1_epi32(1));
    __m512i rounded = _mm512_add_epi32(bits(x), _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
    rounded = _mm512_srli_epi32(rounded, 16);
    const __mmask16 nan = _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
    const __m512i quiet_bit = _mm512_set1_epi32(0x40);
    return _mm512_cvtepi32_epi16(_mm512_mask_or_epi32(rounded, nan, upper, quiet_bit));
}
inline void store_bfloat16(std::uint16_t* to, F32 x) noexcept {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), narrow(x));
}
inline void store_bfloat16_part(std::uint16_t* to, F32 x, std::size_t n) noexcept {
    _mm256_mask_storeu_epi16(to, first(n), narrow(x));
}

/// Pairs, then fours inside the quarters of the registers, then the quarters.
inline void transpose(F32 (&r)[16]) noexcept {
    __m512 t[16];
    for (int i = 0; i < 8; ++i) {
        t[2 * i] = _mm512_unpacklo_ps(r[2 * i], r[2 * i + 1]);
        t[2 * i + 1] = _mm512_unpackhi_ps(r[2 * i], r[2 * i + 1]);
    }
    for (int i = 0; i < 4; ++i) {
        for (int k = 0; k < 2; ++k) {
            const __m512d a = _mm512_castps_pd(t[4 * i + k]);
            const __m512d b = _mm512_castps_pd(t[4 * i + 2 + k]);
            r[4 * i + 2 * k] = _mm512_castpd_ps(_mm512_unpacklo_pd(a, b));
            r[4 * i + 2 * k + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(a, b));
        }
    }
    for (int i = 0; i < 4; ++i) {
        for (int k = 0; k < 2; ++k) {
            t[8 * k + i] = _mm512_shuffle_f32x4(r[8 * k + i], r[8 * k + 4 + i], 0x88);
            t[8 * k + 4 + i] = _mm512_shuffle_f32x4(r[8 * k + i], r[8 * k + 4 + i], 0xdd);
        }
    }
    for (int i = 0; i < 4; ++i) {
        r[i] = _mm512_shuffle_f32x4(t[i], t[8 + i], 0x88);
        r[8 + i] = _mm512_shuffle_f32x4(t[i], t[8 + i], 0xdd);
        r[4 + i] = _mm512_shuffle_f32x4(t[4 + i], t[12 + i], 0x88);
        r[12 + i] = _mm512_shuffle_f32x4(t[4 + i], t[12 + i], 0xdd);
    }
}

inline U64 load_u64(const void* from) noexcept { return _mm512_loadu_si512(from); }
inline void store_u64(void* to, U64 x) noexcept { _mm512_storeu_si512(to, x); }
inline U64 exclusive_or(U64 a, U64 b) noexcept { return _mm512_xor_si512(a, b); }
inline U64 add(U64 a, U64 b) noexcept { return _mm512_add_epi64(a, b); }
template <int n>
U64 shift_right(U64 x) noexcept {
    return _mm512_srli_epi64(x, n);
}
inline U64 swap_neighbours(U64 x) noexcept { return _mm512_shuffle_epi32(x, _MM_PERM_BADC); }
inline U64 multiply_halves(U64 x) noexcept { return _mm512_mul_epu32(x, _mm512_srli_epi64(x, 32)); }
inline U64 multiply(U64 x, std::uint32_t y) noexcept {
    return _mm512_mullo_epi64(x, _mm512_set1_epi64(y));
}

}  // namespace
}  // namespace tersor::simd
