// NEON: four weights at a time against activations read one by one, or one weight against many
// vectors.
#include "dispatch/architecture.hpp"
#include "spmm/csr16/kernels.hpp"

#if TERSOR_ARM64

#include <arm_neon.h>

#include <algorithm>

namespace tersor::spmm::csr16 {
namespace {

constexpr std::size_t width = 4;  // floats in a register
constexpr std::size_t panel_registers = panel_lanes / width;

template <bool shared>
float32x4_t weights(const BlockView& block, std::uint64_t i) noexcept {
    if constexpr (!shared) return vld1q_f32(block.values + i);
    const std::uint8_t* code = block.codes + i;
    return float32x4_t{block.values[code[0]], block.values[code[1]], block.values[code[2]],
                       block.values[code[3]]};
}

float32x4_t activations(const BlockView& block, std::uint64_t i, const float* x) noexcept {
    const std::uint16_t* column = block.columns + i;
    return float32x4_t{x[column[0]], x[column[1]], x[column[2]], x[column[3]]};
}

template <bool shared>
void vector_rows(const BlockView& block, const float* x, float* y, std::size_t row_begin,
                 std::size_t row_end) noexcept {
    for (std::size_t r = row_begin; r < row_end; ++r) {
        const std::uint64_t end = block.row_starts[r + 1];
        for (std::uint64_t i = block.row_starts[r]; i < end;) {
            const std::uint64_t stop = std::min(end, i + fold_terms);
            float32x4_t even = vdupq_n_f32(0.0F);
            float32x4_t odd = even;
            for (; i + 2 * width <= stop; i += 2 * width) {
                even = vfmaq_f32(even, weights<shared>(block, i), activations(block, i, x));
                odd = vfmaq_f32(odd, weights<shared>(block, i + width),
                                activations(block, i + width, x));
            }
            float sum = vaddvq_f32(vaddq_f32(even, odd));
            for (; i < stop; ++i) sum += block.weight<shared>(i) * x[block.columns[i]];
            y[r] += sum;
        }
    }
}

template <bool shared>
void panel_rows(const BlockView& block, const float* panel, const std::size_t* offsets, float* y,
                std::size_t stride, std::size_t row_begin, std::size_t row_end) noexcept {
    for (std::size_t r = row_begin; r < row_end; ++r) {
        float* out = y + r * stride;
        const std::uint64_t end = block.row_starts[r + 1];
        for (std::uint64_t i = block.row_starts[r]; i < end;) {
            const std::uint64_t stop = std::min(end, i + fold_terms);
            float32x4_t sums[panel_registers];
            for (float32x4_t& sum : sums) sum = vdupq_n_f32(0.0F);
            for (; i < stop; ++i) {
                const float w = block.weight<shared>(i);
                const float* x = panel + offsets[block.columns[i]];
                for (std::size_t v = 0; v < panel_registers; ++v) {
                    sums[v] = vfmaq_n_f32(sums[v], vld1q_f32(x + v * width), w);
                }
            }
            for (std::size_t v = 0; v < panel_registers; ++v) {
                vst1q_f32(out + v * width, vaddq_f32(vld1q_f32(out + v * width), sums[v]));
            }
        }
    }
}

void multiply_vector(const BlockView& block, const float* x, float* y, std::size_t row_begin,
                     std::size_t row_end) noexcept {
    const auto rows = block.codes != nullptr ? vector_rows<true> : vector_rows<false>;
    rows(block, x, y, row_begin, row_end);
}

void multiply_panel(const BlockView& block, const float* panel, const std::size_t* offsets,
                    float* y, std::size_t stride, std::size_t row_begin,
                    std::size_t row_end) noexcept {
    const auto rows = block.codes != nullptr ? panel_rows<true> : panel_rows<false>;
    rows(block, panel, offsets, y, stride, row_begin, row_end);
}

void sum_by_code(const BlockView& block, std::uint64_t begin, std::uint64_t end, const float* panel,
                 const float* gradient, float* sums) noexcept {
    for (std::uint64_t i = begin; i < end; ++i) {
        const float* x = panel + block.columns[i] * panel_lanes;
        float* sum = sums + block.codes[i] * panel_lanes;
        for (std::size_t v = 0; v < panel_lanes; v += width) {
            vst1q_f32(sum + v,
                      vfmaq_f32(vld1q_f32(sum + v), vld1q_f32(x + v), vld1q_f32(gradient + v)));
        }
    }
}

}  // namespace

void install(dispatch::Level<Isa::neon>, Kernels& kernels) noexcept {
    kernels = {multiply_vector, multiply_panel, sum_by_code};
}

}  // namespace tersor::spmm::csr16

#endif
