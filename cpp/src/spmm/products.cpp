#include "spmm/products.hpp"

#include <algorithm>
#include <array>
#include <vector>

#include "spmm/not_finite.hpp"
#include "tersor/parallel.hpp"

namespace tersor::spmm {
namespace {

constexpr std::size_t row_grain = 64;

/// Ranges of x outside of which its scale would leave fp32's normal numbers.
constexpr float smallest_range = 0x1p-90F;
constexpr float largest_range = 0x1p100F;

/// Sums of magnitudes of a row's weights up to which, and largest weights down to whose reciprocal,
/// fixed point is tried.
constexpr double usual_row = 0x1p100;

/// Of the range of x and a row's sum of magnitudes: two terms of that size are added in fp32.
constexpr double largest_sum = 0x1p126;

/// Of the range of x and the largest weight: the unit of a product of two bytes is normal.
constexpr double smallest_product = 0x1p-110;

/// out.products = x W^T + bias for one vector that is finite.
void gather_rows(const PackedMatrix::Layout& layout, const float* x, const Outputs& out,
                 int threads) {
    const Kernels& kernel = kernels(layout.isa);
    const Rows16& rows16 = layout.rows16();
    float* y = out.products;
    parallel_for(layout.rows, row_grain, threads, [&](std::size_t begin, std::size_t end) {
        for (std::size_t r = begin; r < end; ++r) y[r] = out.bias.empty() ? 0.0F : out.bias[r];
        for (std::size_t b = 0; b < rows16.blocks.size(); ++b) {
            const BlockView block = layout.view(rows16, b);
            kernel.multiply_vector(block, x + block.first_column, y, begin, end);
        }
    });
}

}  // namespace

bool fits_fixed_point(const Sliding& layout) noexcept {
    return layout.heaviest_row <= usual_row &&
           (layout.heaviest_row == 0.0 || layout.largest_weight() >= 1.0 / usual_row);
}

bool fits_fixed_point(const Sliding& layout, const Range& range) noexcept {
    const float width = range.high - range.low;
    if (!range.finite) return false;
    if (width == 0.0F) return true;
    const double largest_product = double{width} * layout.largest_weight();
    return width >= smallest_range && width <= largest_range && fits_fixed_point(layout) &&
           double{width} * layout.heaviest_row <= largest_sum &&
           (largest_product == 0.0 || largest_product >= smallest_product);
}

void multiply_gathering(const PackedMatrix::Layout& layout, const float* x, const Outputs& out,
                        int threads) {
    gather_rows(layout, x, out, threads);
    NotFinite(layout, x, 1).spread(0, 0, layout.rows, out.products);
    out.finish(0, 0, layout.rows);
}

void multiply_fixed(const PackedMatrix::Layout& layout, const Sliding& sliding,
                    Arithmetic arithmetic, std::span<const Range> ranges, const float* x,
                    const Outputs& out, int threads) {
    const Kernels& kernel = kernels(layout.isa);
    const std::size_t stride = plane_bytes(layout.cols);
    const int planes = arithmetic.x_digits * sliding.shape.planes_per_digit;
    const std::size_t item_bytes = static_cast<std::size_t>(planes) * stride;
    const bool finest = arithmetic == finest_arithmetic;
    support::AlignedBuffer<std::uint8_t> digits(ranges.size() * item_bytes);
    std::array<FixedActivations, items_at_once> fixed;
    for (std::size_t n = 0; n < ranges.size(); ++n) {
        const Range& range = ranges[n];
        const FixedScale scale = scale_of(range, arithmetic.x_digits, sliding.shape.digit_bits);
        std::uint8_t* const to = digits.data() + n * item_bytes;
        kernel.split_activations(x + n * layout.cols, layout.cols, range.low, scale.factor,
                                 arithmetic.x_digits, to, stride);
        fixed[n] = {to, stride, range.low, scale.unit,
                    finest ? layout.highest_rows().sum_rests.data() : nullptr};
    }
    const Digits& weights = sliding.digits[static_cast<std::size_t>(arithmetic.w_digits - 1)];

    // Pieces of equal work: slices differ in length, and are sorted by it.
    const std::vector<std::uint32_t>& starts = sliding.slice_starts;
    const std::size_t pieces =
        std::min(sliding.slices(), static_cast<std::size_t>(std::max(threads, 1)));
    const auto slice_of_piece = [&](std::size_t piece) {
        if (piece == pieces) return sliding.slices();
        const std::uint64_t work = std::uint64_t{starts.back()} * piece / pieces;
        return static_cast<std::size_t>(std::lower_bound(starts.begin(), starts.end(), work) -
                                        starts.begin());
    };
    const float* bias = finest || out.bias.empty() ? nullptr : out.bias.data();
    parallel_for(pieces, 1, threads, [&](std::size_t begin, std::size_t end) {
        kernel.multiply_sliding(sliding, weights, arithmetic, fixed.data(), ranges.size(), bias,
                                out.products, slice_of_piece(begin), slice_of_piece(end));
    });
    for (std::size_t n = 0; n < ranges.size(); ++n) {
        finish_fixed(layout, sliding, arithmetic, ranges[n], x + n * layout.cols, out.past(n),
                     threads);
    }
}

void finish_fixed(const PackedMatrix::Layout& layout, const Sliding& sliding, Arithmetic arithmetic,
                  const Range& range, const float* x, const Outputs& out, int threads) {
    if (arithmetic == finest_arithmetic) {
        const double largest = std::max(-double{range.low}, double{range.high});
        if (!mend_rows(sliding, layout.highest_rows(), layout.codebook, x, largest, out.products)) {
            gather_rows(layout, x, out, threads);
        } else {
            for (std::size_t r = 0; r < out.bias.size(); ++r) out.products[r] += out.bias[r];
        }
    }
    // The slices leave the rows in another order, so these are finished together.
    out.finish(0, 0, layout.rows);
}

void multiply_rows16(const PackedMatrix::Layout& layout, const float* x, std::size_t batch,
                     const Outputs& out, int threads) {
    const Kernels& kernel = kernels(layout.isa);
    const Rows16& rows16 = layout.rows16();
    const NotFinite not_finite(layout, x, batch);
    const std::size_t cols = layout.cols;
    const std::size_t rows = layout.rows;
    support::AlignedBuffer<float> panel(cols * panel_lanes);
    support::AlignedBuffer<float> sums(rows * panel_lanes);
    std::vector<std::size_t> offsets(std::min<std::size_t>(cols, block_columns));
    for (std::size_t k = 0; k < offsets.size(); ++k) offsets[k] = k * panel_lanes;

    for (std::size_t first = 0; first < batch; first += panel_lanes) {
        const std::size_t lanes = std::min(panel_lanes, batch - first);
        parallel_for(cols, row_grain, threads, [&](std::size_t begin, std::size_t end) {
            for (std::size_t lane = 0; lane < lanes; ++lane) {
                const float* source = x + (first + lane) * cols;
                for (std::size_t k = begin; k < end; ++k) {
                    panel[k * panel_lanes + lane] = source[k];
                }
            }
        });
        parallel_for(rows, row_grain, threads, [&](std::size_t begin, std::size_t end) {
            for (std::size_t r = begin; r < end; ++r) {
                std::fill_n(sums.data() + r * panel_lanes, panel_lanes,
                            out.bias.empty() ? 0.0F : out.bias[r]);
            }
            for (std::size_t b = 0; b < rows16.blocks.size(); ++b) {
                const BlockView block = layout.view(rows16, b);
                kernel.multiply_panel(block, panel.data() + block.first_column * panel_lanes,
                                      offsets.data(), sums.data(), panel_lanes, begin, end);
            }
            for (std::size_t lane = 0; lane < lanes; ++lane) {
                float* target = out.products + (first + lane) * rows;
                for (std::size_t r = begin; r < end; ++r) {
                    target[r] = sums[r * panel_lanes + lane];
                }
                not_finite.spread(first + lane, begin, end, target + begin);
                out.finish(first + lane, begin, end);
            }
        });
    }
}

}  // namespace tersor::spmm
