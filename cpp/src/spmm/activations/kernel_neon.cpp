// NEON: activations as limbs of 7 bits.
#include "dispatch/architecture.hpp"
#include "spmm/activations/kernels.hpp"
#include "spmm/sell/layout.hpp"

#if TERSOR_ARM64

#include <arm_neon.h>

#include <algorithm>
#include <cmath>

namespace tersor::spmm::activations {
namespace {

constexpr int limb_bits = sell_neon.limb_bits;

Range range_of(const float* x, std::size_t size) noexcept {
    float32x4_t low = vdupq_n_f32(0.0F);
    float32x4_t high = low;
    uint32x4_t largest = vdupq_n_u32(0);
    std::size_t k = 0;
    for (; k + 4 <= size; k += 4) {
        const float32x4_t v = vld1q_f32(x + k);
        low = vminnmq_f32(low, v);
        high = vmaxnmq_f32(high, v);
        largest = vmaxq_u32(largest, vreinterpretq_u32_f32(vabsq_f32(v)));
    }
    constexpr std::uint32_t infinity = 0x7f800000;
    Range range{vminnmvq_f32(low), vmaxnmvq_f32(high), vmaxvq_u32(largest) < infinity};
    for (; k < size; ++k) {
        range.low = std::min(range.low, x[k]);
        range.high = std::max(range.high, x[k]);
        range.finite &= std::isfinite(x[k]);
    }
    return range;
}

void split_activations(const float* x, std::size_t size, float low, float scale, int count,
                       std::uint8_t* limbs, std::size_t stride) noexcept {
    const float32x4_t origin = vdupq_n_f32(low);
    const uint32x4_t mask = vdupq_n_u32((1U << limb_bits) - 1);
    const auto fixed_at = [&](const float* four) noexcept {
        const float32x4_t scaled = vmulq_n_f32(vsubq_f32(vld1q_f32(four), origin), scale);
        return vreinterpretq_u32_s32(vcvtnq_s32_f32(scaled));
    };
    std::size_t k = 0;
    for (; k + 8 <= size; k += 8) {
        uint32x4_t first = fixed_at(x + k);
        uint32x4_t second = fixed_at(x + k + 4);
        for (int p = 0; p < count; ++p) {
            const uint16x8_t eight =
                vcombine_u16(vmovn_u32(vandq_u32(first, mask)), vmovn_u32(vandq_u32(second, mask)));
            vst1_u8(limbs + static_cast<std::size_t>(p) * stride + k, vmovn_u16(eight));
            first = vshrq_n_u32(first, limb_bits);
            second = vshrq_n_u32(second, limb_bits);
        }
    }
    for (; k < size; ++k) {
        auto fixed = static_cast<std::uint32_t>(vcvtns_s32_f32((x[k] - low) * scale));
        for (int p = 0; p < count; ++p, fixed >>= limb_bits) {
            limbs[static_cast<std::size_t>(p) * stride + k] =
                static_cast<std::uint8_t>(fixed & ((1U << limb_bits) - 1));
        }
    }
}

}  // namespace

void install(dispatch::Level<Isa::neon>, Kernels& kernels) noexcept {
    kernels.range = range_of;
    kernels.split = split_activations;
}

}  // namespace tersor::spmm::activations

#endif
