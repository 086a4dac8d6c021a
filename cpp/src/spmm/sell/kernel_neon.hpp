// NEON: products with one vector in fixed point, without gathers; with the dot product of bytes or
// without. Each way is compiled for its own target, so that nothing here is shared between files.
//
// A window has 64 columns: `tbl` with four registers looks sixteen slots up at once. Limbs have 7
// bits, as with AVX2: they are signed bytes to the dot product, and without that instruction two
// products still add up in 16 bits.
//
// Bottleneck, by count: look-ups, 16 for the 64 slots of a step of `medium` beside 12 dot products.
// It was run under qemu alone.
#pragma once

#include <arm_neon.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "spmm/sell/kernels.hpp"

namespace tersor::spmm::sell {
namespace {  // NOLINT(google-build-namespaces): see above

constexpr int limb_bits = sell_neon.limb_bits;
constexpr std::size_t width = 16;                      // slots in a register
constexpr std::size_t group_rows = width / row_slots;  // and their rows
constexpr std::size_t groups = slice_rows / group_rows;

/// As in sell_avx2.cpp.
constexpr std::size_t pairs_per_fold = 4096;
static_assert(pairs_per_fold * 2 * 3 * 4 * 127 * 127 < (std::size_t{1} << 31));

/// sum[r] += the products of bytes 4r to 4r + 3.
template <bool dot>
int32x4_t add_products(int32x4_t sum, int8x16_t x, int8x16_t w) noexcept {
    if constexpr (dot) {
        // Assembly, for the header of Clang before 16 has no intrinsic in a target region.
        __asm__("sdot %0.4s, %1.16b, %2.16b" : "+w"(sum) : "w"(x), "w"(w));
        return sum;
    }
    const int16x8_t first = vmull_s8(vget_low_s8(x), vget_low_s8(w));
    const int16x8_t second = vmull_high_s8(x, w);
    return vpadalq_s16(sum, vpaddq_s16(first, second));
}

/// The limbs of a codebook of up to 16 or 64 values.
template <bool nibbles>
class CodeTable {
public:
    explicit CodeTable(const std::int8_t* table) noexcept {
        if constexpr (nibbles) {
            parts_.val[0] = vld1q_s8(table);
        } else {
            parts_ = vld1q_s8_x4(table);
        }
    }

    [[nodiscard]] int8x16_t operator[](uint8x16_t codes) const noexcept {
        if constexpr (nibbles) return vqtbl1q_s8(parts_.val[0], codes);
        return vqtbl4q_s8(parts_, codes);
    }

private:
    int8x16x4_t parts_{};
};

/// The codes of a group of slots in one step of a pair.
template <bool nibbles>
uint8x16_t codes_at(const std::uint8_t* entries, int step, std::size_t slot) noexcept {
    const std::uint8_t* codes = entries + 2 * step_slots + slot;
    if constexpr (!nibbles) return vld1q_u8(codes + static_cast<std::size_t>(step) * step_slots);
    const uint8x16_t both = vld1q_u8(codes);
    return step == 0 ? vandq_u8(both, vdupq_n_u8(15)) : vshrq_n_u8(both, 4);
}

/// y = totals + low * the sums of the rows + bias, for the rows of a slice.
inline void put(const Sell& layout, const FixedActivations& x, std::size_t slice,
                const double* totals, const float* bias, float* y) noexcept {
    const std::size_t first_row = slice * slice_rows;
    const std::size_t row_count = std::min(slice_rows, layout.row_order.size() - first_row);
    const float* row_sums = layout.sums.data() + first_row;
    const std::uint32_t* row = layout.row_order.data() + first_row;
    for (std::size_t r = 0; r < row_count; ++r) {
        const double total = x.low == 0.0 ? totals[r] : totals[r] + x.low * double{row_sums[r]};
        const auto out = static_cast<float>(total);
        y[row[r]] = bias == nullptr ? out : out + bias[row[r]];
    }
}

template <int x_limbs, int w_limbs, int lowest, bool nibbles, bool dot>
void slices(const Sell& layout, const Limbs& limbs, const FixedActivations& x, const float* bias,
            float* y, std::size_t slice_begin, std::size_t slice_end) noexcept {
    constexpr int places = x_limbs + w_limbs - 1 - lowest;
    const CodeTable<nibbles> tables[] = {CodeTable<nibbles>(limbs.table[0].data()),
                                         CodeTable<nibbles>(limbs.table[1].data()),
                                         CodeTable<nibbles>(limbs.table[2].data())};
    for (std::size_t s = slice_begin; s < slice_end; ++s) {
        double totals[slice_rows] = {};
        const std::uint8_t* window = x.limbs;
        std::size_t pair = layout.slice_starts[s];
        for (const std::size_t end = layout.slice_starts[s + 1]; pair < end;) {
            const std::uint8_t* entries = layout.entries.data() + pair * pair_bytes(nibbles);
            const std::uint8_t* advance = layout.advances.data() + 2 * pair;
            const std::size_t stop = std::min(end, pair + pairs_per_fold);
            int32x4_t sums[groups][places];
            for (auto& group : sums) {
                for (int32x4_t& sum : group) sum = vdupq_n_s32(0);
            }
            for (; pair < stop; ++pair, entries += pair_bytes(nibbles), advance += 2) {
                for (int step = 0; step < 2; ++step) {
                    window += std::size_t{advance[step]} * sell_neon.window_grain;
                    uint8x16x4_t columns[x_limbs];
                    for (int p = 0; p < x_limbs; ++p) {
                        columns[p] = vld1q_u8_x4(window + static_cast<std::size_t>(p) * x.stride);
                    }
                    for (std::size_t g = 0; g < groups; ++g) {
                        const std::size_t slot = g * width;
                        const uint8x16_t index =
                            vld1q_u8(entries + static_cast<std::size_t>(step) * step_slots + slot);
                        const uint8x16_t codes = codes_at<nibbles>(entries, step, slot);
                        int8x16_t w_limb[w_limbs];
                        for (int q = 0; q < w_limbs; ++q) w_limb[q] = tables[q][codes];
                        for (int p = 0; p < x_limbs; ++p) {
                            const int8x16_t x_limb =
                                vreinterpretq_s8_u8(vqtbl4q_u8(columns[p], index));
                            for (int q = 0; q < w_limbs; ++q) {
                                if (p + q < lowest) continue;
                                int32x4_t& sum = sums[g][p + q - lowest];
                                sum = add_products<dot>(sum, x_limb, w_limb[q]);
                            }
                        }
                    }
                }
            }
            for (int place = 0; place < places; ++place) {
                const double weight =
                    x.unit * limbs.unit *
                    static_cast<double>(std::uint64_t{1} << (limb_bits * (place + lowest)));
                for (std::size_t r = 0; r < slice_rows; ++r) {
                    const std::int32_t sum = sums[r / group_rows][place][r % group_rows];
                    totals[r] += weight * static_cast<double>(sum);
                }
            }
        }
        put(layout, x, s, totals, bias, y);
    }
}

template <bool nibbles, bool dot>
void multiply_with(const Sell& layout, const Limbs& weights, Arithmetic arithmetic,
                   const FixedActivations* x, std::size_t items, const float* bias, float* y,
                   std::size_t slice_begin, std::size_t slice_end) noexcept {
    const auto run = arithmetic == Arithmetic{1, 1, 0}   ? slices<1, 1, 0, nibbles, dot>
                     : arithmetic == Arithmetic{1, 2, 0} ? slices<1, 2, 0, nibbles, dot>
                     : arithmetic == Arithmetic{2, 2, 1} ? slices<2, 2, 1, nibbles, dot>
                     : arithmetic == Arithmetic{2, 2, 0} ? slices<2, 2, 0, nibbles, dot>
                                                         : slices<3, 3, 2, nibbles, dot>;
    for (std::size_t i = 0; i < items; ++i) {
        run(layout, weights, x[i], bias, y + i * layout.row_order.size(), slice_begin, slice_end);
    }
}

template <bool dot>
void multiply(const Sell& layout, const Limbs& weights, Arithmetic arithmetic,
              const FixedActivations* x, std::size_t items, const float* bias, float* y,
              std::size_t slice_begin, std::size_t slice_end) noexcept {
    const auto run = layout.nibbles() ? multiply_with<true, dot> : multiply_with<false, dot>;
    run(layout, weights, arithmetic, x, items, bias, y, slice_begin, slice_end);
}

}  // namespace
}  // namespace tersor::spmm::sell
