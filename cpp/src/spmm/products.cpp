#include "spmm/products.hpp"

#include <algorithm>
#include <array>
#include <vector>

#include "spmm/not_finite.hpp"
#include "spmm/split_work.hpp"
#include "support/scratch.hpp"
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

void scale_columns(const PackedMatrix::Layout& layout, FloatView x, std::span<float> scaled,
                   int threads) {
    const std::size_t cols = layout.cols;
    if (cols == 0) return;
    const ScaleColumns scale = kernels(layout.isa).scale_columns;
    parallel_for(x.size / cols, 1, threads, [&](std::size_t begin, std::size_t end) {
        for (std::size_t n = begin; n < end; ++n) {
            scale(part_of(x, n * cols, cols).data, x.type, layout.column_factors.data(), cols,
                  scaled.data() + n * cols);
        }
    });
}

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
    const float* sum_rests = finest ? layout.highest_rows().sum_rests.data() : nullptr;
    // What lies past the last column is multiplied with weights that are 0.
    const support::Scratch<std::uint8_t> digits(ranges.size() * item_bytes);
    std::array<FixedActivations, items_at_once> fixed;
    parallel_for(ranges.size(), 1, threads, [&](std::size_t begin, std::size_t end) {
        for (std::size_t n = begin; n < end; ++n) {
            const Range& range = ranges[n];
            const FixedScale scale = scale_of(range, arithmetic.x_digits, sliding.shape.digit_bits);
            std::uint8_t* const to = digits.data() + n * item_bytes;
            kernel.split_activations(x + n * layout.cols, layout.cols, range.low, scale.factor,
                                     arithmetic.x_digits, to, stride);
            fixed[n] = {to, stride, range.low, scale.unit, sum_rests};
        }
    });
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
    if (!finest && !out.needs_finish()) return;
    // The slices leave the rows in another order, so these are finished together.
    parallel_for(ranges.size(), 1, threads, [&](std::size_t begin, std::size_t end) {
        for (std::size_t n = begin; n < end; ++n) {
            finish_fixed(layout, sliding, arithmetic, ranges[n], x + n * layout.cols, out.past(n));
        }
    });
}

void finish_fixed(const PackedMatrix::Layout& layout, const Sliding& sliding, Arithmetic arithmetic,
                  const Range& range, const float* x, const Outputs& out) {
    if (arithmetic == finest_arithmetic) {
        const double largest = std::max(-double{range.low}, double{range.high});
        if (!mend_rows(sliding, layout.highest_rows(), layout.codebook, x, largest, out.products)) {
            gather_rows(layout, x, out, 1);
        } else {
            for (std::size_t r = 0; r < out.bias.size(); ++r) out.products[r] += out.bias[r];
        }
    }
    out.finish(0, 0, layout.rows);
}

void multiply_rows16(const PackedMatrix::Layout& layout, const float* x, std::size_t batch,
                     const Outputs& out, int threads) {
    const Kernels& kernel = kernels(layout.isa);
    const Rows16& rows16 = layout.rows16();
    const std::size_t cols = layout.cols;
    const RowTiles tiles{layout.rows, row_grain};
    const support::Scratch<std::size_t> offsets(std::min<std::size_t>(cols, block_columns));
    for (std::size_t k = 0; k < offsets.size(); ++k) offsets[k] = k * panel_lanes;
    std::vector<VectorGroup> groups;
    for (std::size_t first = 0; first < batch; first += panel_lanes) {
        groups.push_back(
            {first, std::min(panel_lanes, batch - first), panel_lanes, first * tiles.rows});
    }
    const std::size_t pieces =
        std::min(groups.size() * tiles.count(), static_cast<std::size_t>(std::max(threads, 1)));
    const auto multiply_group = [&](const VectorGroup& group, std::size_t tile_begin,
                                    std::size_t tile_end) {
        const float* vectors = x + group.first * cols;
        const Outputs own = out.past(group.first);
        const NotFinite not_finite(layout, vectors, group.vectors);
        const support::Scratch<float> panel(cols * panel_lanes);
        // Memory may hold denormals, which take long, in the lanes that no vector fills.
        if (group.vectors < panel_lanes) std::fill_n(panel.data(), panel.size(), 0.0F);
        kernel.transpose(vectors, cols, group.vectors, cols, panel.data(), panel_lanes);
        const support::Scratch<float> sums(row_grain * panel_lanes);
        for (std::size_t t = tile_begin; t < tile_end; ++t) {
            const std::size_t begin = t * row_grain;
            const std::size_t end = std::min<std::size_t>(layout.rows, begin + row_grain);
            for (std::size_t r = begin; r < end; ++r) {
                std::fill_n(sums.data() + (r - begin) * panel_lanes, panel_lanes,
                            out.bias.empty() ? 0.0F : out.bias[r]);
            }
            for (std::size_t b = 0; b < rows16.blocks.size(); ++b) {
                BlockView block = layout.view(rows16, b);
                block.row_starts += begin;
                kernel.multiply_panel(block, panel.data() + block.first_column * panel_lanes,
                                      offsets.data(), sums.data(), panel_lanes, 0, end - begin);
            }
            kernel.transpose(sums.data(), panel_lanes, end - begin, group.vectors,
                             own.products + begin, layout.rows);
            for (std::size_t n = 0; n < group.vectors; ++n) {
                not_finite.spread(n, begin, end, own.products + n * layout.rows + begin);
                own.finish(n, begin, end);
            }
        }
    };
    parallel_for(pieces, 1, threads, [&](std::size_t begin, std::size_t end) {
        for_each_share(groups, tiles, pieces, begin, end, multiply_group);
    });
}

}  // namespace tersor::spmm
