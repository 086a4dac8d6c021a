// NEON: what README.md describes, in registers of 16 bytes.
#pragma once

#include <arm_neon.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>

namespace tersor::simd {
namespace {  // NOLINT(google-build-namespaces): as for the other levels

using F32 = float32x4_t;
using I32 = int32x4_t;
using U64 = uint64x2_t;
inline constexpr std::size_t width = 4;
inline constexpr std::size_t registers = 32;
inline constexpr bool has_masks = false;

inline F32 zero() noexcept { return vdupq_n_f32(0.0F); }
inline F32 splat(float x) noexcept { return vdupq_n_f32(x); }
inline F32 load(const float* from) noexcept { return vld1q_f32(from); }
inline void store(float* to, F32 x) noexcept { vst1q_f32(to, x); }
inline F32 load_part(const float* from, std::size_t n) noexcept {
    float part[width] = {};
    std::memcpy(part, from, n * sizeof *from);
    return load(part);
}
inline void store_part(float* to, F32 x, std::size_t n) noexcept {
    float part[width];
    store(part, x);
    std::memcpy(to, part, n * sizeof *to);
}

inline F32 fma(F32 a, F32 b, F32 c) noexcept { return vfmaq_f32(c, a, b); }
inline F32 fnma(F32 a, F32 b, F32 c) noexcept { return vfmsq_f32(c, a, b); }
inline F32 min(F32 a, F32 b) noexcept { return vbslq_f32(vcltq_f32(a, b), a, b); }
inline F32 max(F32 a, F32 b) noexcept { return vbslq_f32(vcgtq_f32(a, b), a, b); }
inline F32 magnitude(F32 x) noexcept { return vabsq_f32(x); }
inline F32 where_negative(F32 x, F32 yes, F32 no) noexcept {
    return vbslq_f32(vcltzq_s32(vreinterpretq_s32_f32(x)), yes, no);
}
inline F32 where_less(F32 a, F32 b, F32 yes, F32 no) noexcept {
    return vbslq_f32(vcltq_f32(a, b), yes, no);
}
inline F32 with_sign_of(F32 x, F32 magnitude) noexcept {
    return vbslq_f32(vdupq_n_u32(0x80000000U), x, magnitude);
}
inline F32 round(F32 x) noexcept { return vrndnq_f32(x); }
inline F32 power_of_two(I32 n) noexcept {
    return vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(n, vdupq_n_s32(127)), 23));
}
/// In two factors, for the result may be denormal.
inline F32 times_power_of_two(F32 x, F32 n) noexcept {
    const int32x4_t whole = vcvtnq_s32_f32(n);
    const int32x4_t half = vshrq_n_s32(whole, 1);
    return vmulq_f32(vmulq_f32(x, power_of_two(half)), power_of_two(vsubq_s32(whole, half)));
}

inline float sum(F32 x) noexcept { return vaddvq_f32(x); }
inline float least(F32 x) noexcept { return vminnmvq_f32(x); }
inline float largest(F32 x) noexcept { return vmaxnmvq_f32(x); }

inline F32 load_int8(const std::uint8_t* from) noexcept {
    std::uint32_t four;
    std::memcpy(&four, from, sizeof four);
    const int16x8_t wide = vmovl_s8(vreinterpret_s8_u32(vdup_n_u32(four)));
    return vcvtq_f32_s32(vmovl_s16(vget_low_s16(wide)));
}
inline I32 load_bytes(const std::uint8_t* from) noexcept {
    return vreinterpretq_s32_u8(vld1q_u8(from));
}
inline I32 add_dots(I32 sums, I32 small, I32 bytes) noexcept {
    const int8x16_t a = vreinterpretq_s8_s32(small);
    const int8x16_t b = vreinterpretq_s8_s32(bytes);
    sums = vpadalq_s16(sums, vmull_s8(vget_low_s8(a), vget_low_s8(b)));
    return vpadalq_s16(sums, vmull_high_s8(a, b));
}
inline I32 splat_int(std::int32_t x) noexcept { return vdupq_n_s32(x); }
inline I32 bits(F32 x) noexcept { return vreinterpretq_s32_f32(x); }
inline I32 to_int(F32 x) noexcept { return vcvtnq_s32_f32(x); }
inline I32 both(I32 a, I32 b) noexcept { return vandq_s32(a, b); }
inline I32 max_int(I32 a, I32 b) noexcept { return vmaxq_s32(a, b); }
inline I32 shift_right(I32 x, int n) noexcept {
    return vreinterpretq_s32_u32(vshlq_u32(vreinterpretq_u32_s32(x), vdupq_n_s32(-n)));
}
inline std::int32_t largest_int(I32 x) noexcept { return vmaxvq_s32(x); }
inline double sum_ints(I32 x) noexcept { return static_cast<double>(vaddlvq_s32(x)); }
inline void store_low_bytes(std::uint8_t* to, I32 x) noexcept {
    const uint16x4_t halves = vmovn_u32(vreinterpretq_u32_s32(x));
    const uint8x8_t bytes = vmovn_u16(vcombine_u16(halves, halves));
    const std::uint32_t four = vget_lane_u32(vreinterpret_u32_u8(bytes), 0);
    std::memcpy(to, &four, sizeof four);
}

inline F32 gather(const float* from, const std::uint16_t* at) noexcept {
    return F32{from[at[0]], from[at[1]], from[at[2]], from[at[3]]};
}
inline F32 look_up(const float* table, const std::uint8_t* codes) noexcept {
    return F32{table[codes[0]], table[codes[1]], table[codes[2]], table[codes[3]]};
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
    return vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(from), 16));
}
inline void store_bfloat16(std::uint16_t* to, F32 x) noexcept {
    const uint32x4_t whole = vreinterpretq_u32_f32(x);
    const uint32x4_t upper = vshrq_n_u32(whole, 16);
    const uint32x4_t odd = vandq_u32(upper, vdupq_n_u32(1));
    const uint32x4_t rounded =
        vshrq_n_u32(vaddq_u32(whole, vaddq_u32(odd, vdupq_n_u32(0x7fff))), 16);
    const uint32x4_t quiet = vorrq_u32(upper, vdupq_n_u32(0x40));
    vst1_u16(to, vmovn_u32(vbslq_u32(vceqq_f32(x, x), rounded, quiet)));
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

inline void transpose(F32 (&r)[4]) noexcept {
    const float32x4_t a = vtrn1q_f32(r[0], r[1]), b = vtrn2q_f32(r[0], r[1]);
    const float32x4_t c = vtrn1q_f32(r[2], r[3]), d = vtrn2q_f32(r[2], r[3]);
    r[0] = vcombine_f32(vget_low_f32(a), vget_low_f32(c));
    r[1] = vcombine_f32(vget_low_f32(b), vget_low_f32(d));
    r[2] = vcombine_f32(vget_high_f32(a), vget_high_f32(c));
    r[3] = vcombine_f32(vget_high_f32(b), vget_high_f32(d));
}

inline U64 load_u64(const void* from) noexcept {
    return vreinterpretq_u64_u8(vld1q_u8(static_cast<const std::uint8_t*>(from)));
}
inline void store_u64(void* to, U64 x) noexcept {
    vst1q_u8(static_cast<std::uint8_t*>(to), vreinterpretq_u8_u64(x));
}
inline U64 exclusive_or(U64 a, U64 b) noexcept { return veorq_u64(a, b); }
inline U64 add(U64 a, U64 b) noexcept { return vaddq_u64(a, b); }
template <int n>
U64 shift_right(U64 x) noexcept {
    return vshrq_n_u64(x, n);
}
inline U64 swap_neighbours(U64 x) noexcept { return vextq_u64(x, x, 1); }
inline U64 multiply_halves(U64 x) noexcept { return vmull_u32(vmovn_u64(x), vshrn_n_u64(x, 32)); }
inline U64 multiply(U64 x, std::uint32_t y) noexcept {
    const uint64x2_t high = vmull_u32(vshrn_n_u64(x, 32), vdup_n_u32(y));
    return vmlal_u32(vshlq_n_u64(high, 32), vmovn_u64(x), vdup_n_u32(y));
}

}  // namespace
}  // namespace tersor::simd
