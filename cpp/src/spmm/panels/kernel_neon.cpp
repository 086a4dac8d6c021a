// NEON: one entry of a panel block against 16 or 32 vectors.
#include "dispatch/architecture.hpp"
#include "spmm/panels/kernels.hpp"

#if TERSOR_ARM64

#include <arm_neon.h>

namespace tersor::spmm::panels {
namespace {

/// `registers` of the registers that the lanes fill, beginning at panel[0] and sums[0].
template <int registers>
void block_of(const std::uint16_t* at, const std::uint16_t* end, const float* codebook,
              const float* panel, std::size_t lanes, float* sums) noexcept {
    const auto add = [&](float32x4_t(&to)[registers], unsigned entry) noexcept {
        const float w = codebook[entry & 0xff];
        const float* x = panel + std::size_t{entry >> 8} * lanes;
        for (int i = 0; i < registers; ++i) to[i] = vfmaq_n_f32(to[i], vld1q_f32(x + 4 * i), w);
    };
    while (at != end) {
        const std::size_t count = at[0];
        const std::size_t rows = at[1];
        at += 2;
        for (std::size_t r = 0; r < rows; ++r) {
            float* row_sums = sums + std::size_t{*at++} * lanes;
            float32x4_t even[registers], odd[registers];
            for (int i = 0; i < registers; ++i) even[i] = odd[i] = vdupq_n_f32(0.0F);
            std::size_t left = count;
            for (; left >= 2; left -= 2, at += 2) {
                add(even, at[0]);
                add(odd, at[1]);
            }
            if (left != 0) add(even, *at++);
            for (int i = 0; i < registers; ++i) {
                const float32x4_t sum = vaddq_f32(even[i], odd[i]);
                vst1q_f32(row_sums + 4 * i, vaddq_f32(vld1q_f32(row_sums + 4 * i), sum));
            }
        }
    }
}

void multiply_block(const std::uint16_t* begin, const std::uint16_t* end, const float* codebook,
                    const float* panel, std::size_t lanes, float* sums) noexcept {
    if (lanes == 16) block_of<4>(begin, end, codebook, panel, lanes, sums);
    // Half of the registers hold the two sums of 32 lanes.
    for (std::size_t lane = 0; lane + 32 <= lanes; lane += 32) {
        block_of<8>(begin, end, codebook, panel + lane, lanes, sums + lane);
    }
}

}  // namespace

void install(dispatch::Level<Isa::neon>, Kernels& kernels) noexcept {
    kernels.multiply_block = multiply_block;
}

}  // namespace tersor::spmm::panels

#endif
