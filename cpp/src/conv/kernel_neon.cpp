// NEON: a vector of 16 lanes is four registers, so that a tile has up to 6.
#include "conv/kernels.hpp"
#include "dispatch/architecture.hpp"

#if TERSOR_ARM64

#include <arm_neon.h>

#include <utility>

namespace tersor::conv {
namespace {

constexpr std::size_t quarter = lanes / 4;

void multiply_add(float32x4_t& sum, const std::uint32_t* x, std::uint32_t weight) noexcept {
    const float32x4_t w = vreinterpretq_f32_u32(vdupq_n_u32(weight));
    sum = vfmaq_f32(sum, vreinterpretq_f32_u32(vld1q_u32(x)), w);
}

void multiply_add(int32x4_t& sum, const std::uint32_t* x, std::uint32_t weight) noexcept {
    const int16x8_t w = vreinterpretq_s16_u32(vdupq_n_u32(weight));
    const int16x8_t words = vreinterpretq_s16_u32(vld1q_u32(x));
    const int32x4_t low = vmull_s16(vget_low_s16(words), vget_low_s16(w));
    sum = vaddq_s32(sum, vpaddq_s32(low, vmull_high_s16(words, w)));
}

float32x4_t to_float(float32x4_t sum) noexcept { return sum; }
float32x4_t to_float(int32x4_t sum) noexcept { return vcvtq_f32_s32(sum); }

/// `Register` is that of the sums.
template <class Register, int vectors>
void sum_entries(const Entries& entries, const std::uint32_t* patch, const float* before,
                 float* after) noexcept {
    constexpr int registers = 4 * vectors;
    constexpr std::size_t unit = offset_unit / sizeof *patch;
    Register sums[registers];
#pragma GCC unroll 24
    for (Register& sum : sums) sum = Register{};
    for (std::size_t k = 0; k < entries.size; ++k) {
        const std::uint32_t* x = patch + unit * entries.offsets[k];
#pragma GCC unroll 24
        for (int t = 0; t < registers; ++t) {
            multiply_add(sums[t], x + quarter * static_cast<std::size_t>(t), entries.weights[k]);
        }
    }
#pragma GCC unroll 24
    for (int t = 0; t < registers; ++t) {
        float32x4_t total = to_float(sums[t]);
        if (before != nullptr) total = vaddq_f32(total, vld1q_f32(before + quarter * t));
        vst1q_f32(after + quarter * t, total);
    }
}

template <Word word, class Register, int... vectors>
void install_sums(Kernels& kernels, std::integer_sequence<int, vectors...>) noexcept {
    ((kernels.sums[static_cast<std::size_t>(word)][vectors] = sum_entries<Register, vectors>), ...);
}

}  // namespace

void install(dispatch::Level<Isa::neon>, Kernels& kernels) noexcept {
    using Vectors = std::integer_sequence<int, 1, 2, 3, 4, 5, 6>;
    // Without quads: the dot product of bytes has both factors signed.
    kernels.sums = {};
    install_sums<Word::floats, float32x4_t>(kernels, Vectors());
    install_sums<Word::pairs, int32x4_t>(kernels, Vectors());
}

}  // namespace tersor::conv

#endif
