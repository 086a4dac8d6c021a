// The kernels of sparse products, one column per instruction-set level.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "spmm/filling.hpp"
#include "spmm/rows16.hpp"
#include "spmm/sliding.hpp"
#include "spmm/tiles.hpp"
#include "tersor/epilogue.hpp"
#include "tersor/isa.hpp"

namespace tersor::spmm {

/// Activations that one call of `multiply_panel` serves.
inline constexpr std::size_t panel_lanes = 32;

/// Terms that `multiply_panel` sums in fp32 before they are folded into a second sum: it keeps the
/// rounding error of a long row near that of a short one.
inline constexpr std::uint64_t fold_terms = 256;

/// y[r] += sum of w * x[column], for r in [row_begin, row_end).
using MultiplyVector = void (*)(const BlockView& block, const float* x, float* y,
                                std::size_t row_begin, std::size_t row_end) noexcept;

/// y[r * stride + lane] += sum of w * panel[offsets[column] + lane], for 32 lanes and r in
/// [row_begin, row_end). One multiply-add per weight and vector, and no gathers: a batch and a
/// convolution differ only in the offsets.
using MultiplyPanel = void (*)(const BlockView& block, const float* panel,
                               const std::size_t* offsets, float* y, std::size_t stride,
                               std::size_t row_begin, std::size_t row_end) noexcept;

/// sums[code * 32 + lane] += panel[column * 32 + lane] * gradient[lane] for the entries
/// [begin, end) of a block with codes.
using SumByCode = void (*)(const BlockView& block, std::uint64_t begin, std::uint64_t end,
                           const float* panel, const float* gradient, float* sums) noexcept;

/// sums[row * lanes + lane] += sum of w * panel[column * lanes + lane] over one block of the panel
/// layout, for 16, 32 or 64 lanes; panel and sums are aligned to 64 bytes.
using MultiplyPanelBlock = void (*)(const std::uint16_t* begin, const std::uint16_t* end,
                                    const float* codebook, const float* panel, std::size_t lanes,
                                    float* sums) noexcept;

/// to[c * to_stride + r] = from[r * from_stride + c].
using Transpose = void (*)(const float* from, std::size_t from_stride, std::size_t rows,
                           std::size_t cols, float* to, std::size_t to_stride) noexcept;

/// panel[column * 64 + place] = digits[vector * stride + column] for 64 vectors and a multiple of
/// 64 columns, in the places that leave the sums of `MultiplyDigitBlock` in the order of the
/// vectors. Levels without the kernels for panels of digits leave the three nullptr.
using InterleaveDigits = void (*)(const std::uint8_t* digits, std::size_t stride,
                                  std::size_t columns, std::uint8_t* panel) noexcept;

/// sums[row * 64 + vector] += sum of digit of w * digit of x over one block of the panel layout.
using MultiplyDigitBlock = void (*)(const std::uint16_t* begin, const std::uint16_t* end,
                                    const std::uint8_t* panel, std::int32_t* sums) noexcept;

/// y[row * 64 + vector] = sums[...] * units[vector] + lows[vector] * row_sums[row] + bias[row];
/// `bias` may be nullptr, and `y` the memory of the sums.
using ScaleDigitSums = void (*)(const std::int32_t* sums, std::size_t rows, const float* units,
                                const float* lows, const float* row_sums, const float* bias,
                                float* y) noexcept;

/// The range of a vector and of 0.
struct Range {
    float low;
    float high;
    bool finite;  // no element is NaN or infinite
};

/// How a vector becomes fixed point: digits of round((x - low) * factor), in units of `unit`.
struct FixedScale {
    float factor;
    double unit;
};
[[nodiscard]] inline FixedScale scale_of(const Range& range, int x_digits, int bits) noexcept {
    const float width = range.high - range.low;
    const auto factor =
        width > 0.0F ? static_cast<float>(full_scale(x_digits, bits) / double{width}) : 1.0F;
    return {factor, 1.0 / double{factor}};
}

using ActivationRange = Range (*)(const float* x, std::size_t size) noexcept;

/// digits[p * stride + k] = digit p of round((x[k] - low) * scale), for `count` digits. Where the
/// level's shape has two planes per digit, digits[(count + p) * stride + k] becomes that digit xor
/// the one 16 columns on.
using SplitActivations = void (*)(const float* x, std::size_t size, float low, float scale,
                                  int count, std::uint8_t* digits, std::size_t stride) noexcept;

/// y[i * rows + row] = sum of w * x[i] + bias[row] for `items` vectors, whose planes of digits lie
/// one behind the other, `weights` being the digits of w by code, and for the
/// rows of the slices [slice_begin, slice_end); `bias` may be nullptr. Levels that have no such
/// kernel leave it nullptr: the fp32 kernels meet every class.
using MultiplySliding = void (*)(const Sliding& layout, const Digits& weights,
                                 Arithmetic arithmetic, const FixedActivations* x,
                                 std::size_t items, const float* bias, float* y,
                                 std::size_t slice_begin, std::size_t slice_end) noexcept;

/// out.y[i * rows + row] = sum of w * x[i] + bias[row] for the vectors of `x` and the rows of the
/// groups [group_begin, group_end), at most `groups_at_once`.
/// Levels without tiles leave it nullptr.
using MultiplyTiles = void (*)(const Tiles& layout, const Digits& weights, Arithmetic arithmetic,
                               const TileActivations& x, const TileOutputs& out, TileWork work,
                               std::size_t group_begin, std::size_t group_end) noexcept;

/// The entries that are no fillers; returns their number. `column` is the column before the first
/// gap. Up to `read_slack` entries past them are overwritten.
using DecodeEntries = std::size_t (*)(const std::uint8_t* gaps, const std::uint8_t* codes,
                                      std::size_t size, std::uint32_t column,
                                      Entry* entries) noexcept;

/// counts[c] = how often code c occurs, for the codes from 1 to `values` - 1, which are all there
/// are beside 0; `counts` has room for 256.
using CountCodes = void (*)(const std::uint8_t* codes, std::size_t size, std::size_t values,
                            std::uint32_t* counts) noexcept;

/// How a row's non-zeros lie, from its gaps and codes; `column` as above. Returns whether the row,
/// where it does not belong to a flat matrix, obeys every rule of csr::validate, and its codes are
/// below `rules.values`.
using SurveyRow = bool (*)(const std::uint8_t* gaps, const std::uint8_t* codes, std::size_t size,
                           std::uint32_t column, const RowRules& rules, RowFacts& facts) noexcept;

/// totals = the sum of counts[c] * terms[c] over the codes but 0, whose terms are 0.
using WeighCounts = void (*)(const std::uint32_t* counts, std::size_t values,
                             const CodeTerms* terms, CodeTerms& totals) noexcept;

/// Of `size` rows, at least one; x_first is that of the first.
using MomentsOf = Moments (*)(const RowFacts* facts, const std::uint32_t* rows,
                              std::size_t size) noexcept;

/// Moves the rows of slices into pairs of steps, until nothing is left or there is no room. A step
/// takes up to four entries of each row, as far as they lie in its window, which begins at the
/// first column that is left.
using FillPairs = void (*)(std::span<SliceCursor> slices, const SlidingShape& shape,
                           bool nibbles) noexcept;

/// What products are finished with; each may be nullptr. A bias comes with factors alone: without
/// them it is in the products already.
struct FinishOperands {
    const float* factors = nullptr;
    const float* bias = nullptr;
    const void* residual = nullptr;
    FloatType residual_type = FloatType::float32;
};

/// y = activation(products * factors + bias + residual), rounded to y's type.
using Finish = void (*)(const float* products, std::size_t size, Activation activation,
                        const FinishOperands& operands, void* y, FloatType y_type) noexcept;

/// to = x * factors, for x of either type.
using ScaleColumns = void (*)(const void* x, FloatType type, const float* factors, std::size_t size,
                              float* to) noexcept;

struct Kernels {
#define TERSOR_KERNEL(name, type) type name = nullptr;
#include "spmm/kernels.def"
#undef TERSOR_KERNEL
};

/// CountCodes for any number of values, for levels that have a faster way for few.
void count_codes_by_table(const std::uint8_t* codes, std::size_t size, std::size_t values,
                          std::uint32_t* counts) noexcept;

void install_scalar(Kernels& kernels) noexcept;
void install_filling_scalar(Kernels& kernels) noexcept;
void install_filling_avx512(Kernels& kernels) noexcept;
void install_avx2(Kernels& kernels) noexcept;
void install_avx512(Kernels& kernels) noexcept;
void install_neon(Kernels& kernels) noexcept;
void install_finish_scalar(Kernels& kernels) noexcept;
void install_finish_avx2(Kernels& kernels) noexcept;
void install_finish_avx512(Kernels& kernels) noexcept;
void install_sliding_avx2(Kernels& kernels) noexcept;
void install_sliding_avx512(Kernels& kernels) noexcept;
void install_sliding_neon(Kernels& kernels) noexcept;
void install_sliding_dot_neon(Kernels& kernels) noexcept;
void install_panels_scalar(Kernels& kernels) noexcept;
void install_panels_avx2(Kernels& kernels) noexcept;
void install_panels_avx512(Kernels& kernels) noexcept;
void install_tiles_amx(Kernels& kernels) noexcept;

/// The kernels of a level.
[[nodiscard]] const Kernels& kernels(Isa isa) noexcept;

}  // namespace tersor::spmm
