#include "spmm/multiply_panels.hpp"

#include <algorithm>
#include <array>
#include <vector>

#include "spmm/kernels.hpp"
#include "spmm/not_finite.hpp"
#include "spmm/panels.hpp"
#include "spmm/products.hpp"
#include "tersor/parallel.hpp"

namespace tersor::spmm {
namespace {

/// Columns that one thread transposes at a time.
constexpr std::size_t column_grain = 256;

/// Blocks that are added up before they are added to the totals.
struct Fold {
    std::size_t first;  // block
    std::size_t last;
};

/// The blocks of a fold for one tile of rows: totals[row * lanes + lane] += product. `panel` begins
/// with the first of them. Those of the first fold need no sums of their own.
void multiply_tile(const Kernels& kernel, const PanelTile& tile, Fold fold, std::size_t block_size,
                   const float* codebook, const float* panel, std::size_t lanes, float* sums,
                   std::size_t size, float* totals) noexcept {
    float* target = fold.first == 0 ? totals : sums;
    if (fold.first != 0) std::fill_n(sums, size, 0.0F);
    for (std::size_t b = fold.first; b < fold.last; ++b, panel += block_size) {
        kernel.multiply_panel_block(tile.stream.data() + tile.block_starts[b],
                                    tile.stream.data() + tile.block_starts[b + 1], codebook, panel,
                                    lanes, target);
    }
    if (fold.first == 0) return;
    for (std::size_t i = 0; i < size; ++i) totals[i] += sums[i];
}

/// Up to `digit_lanes` vectors, whose ranges are given; `row_sums` are the sums of each row's
/// weights as the digits have them. Vectors that do not fit fixed point are left to the caller.
void multiply_digit_panel(const PackedMatrix::Layout& layout, const Panels& panels, const float* x,
                          std::span<const Range> ranges, std::span<const float> row_sums,
                          const Outputs& out, int threads) {
    const Kernels& kernel = kernels(layout.isa);
    const std::size_t rows = layout.rows;
    const std::size_t cols = layout.cols;
    const std::size_t stride = (cols + 63) / 64 * 64;
    const Sliding& sliding = *layout.sliding();
    const Digits& weights = sliding.digits[0];
    support::AlignedBuffer<std::uint8_t> digits(digit_lanes * stride);
    std::array<float, digit_lanes> units{};
    std::array<float, digit_lanes> lows{};
    for (std::size_t n = 0; n < ranges.size(); ++n) {
        const FixedScale scale = scale_of(ranges[n], 1, weights.bits);
        kernel.split_activations(x + n * cols, cols, ranges[n].low, scale.factor, 1,
                                 digits.data() + n * stride, stride);
        units[n] = static_cast<float>(scale.unit * weights.unit);
        lows[n] = ranges[n].low;
    }
    support::AlignedBuffer<std::uint8_t> panel(stride * digit_lanes, support::Fill::none);
    kernel.interleave_digits(digits.data(), stride, stride, panel.data());

    const std::size_t tiles = panels.tiles.size();
    const std::size_t pieces = std::min(tiles, static_cast<std::size_t>(std::max(threads, 1)));
    const std::size_t tile_size = std::min(rows, tile_rows) * digit_lanes;
    support::AlignedBuffer<std::int32_t> sums(pieces * tile_size, support::Fill::none);
    support::AlignedBuffer<float> totals(pieces * tile_size, support::Fill::none);
    parallel_for(pieces, 1, threads, [&](std::size_t begin, std::size_t end) {
        std::int32_t* sum = sums.data() + begin * tile_size;
        float* total = totals.data() + begin * tile_size;
        for (std::size_t t = tiles * begin / pieces; t < tiles * end / pieces; ++t) {
            const PanelTile& tile = panels.tiles[t];
            const std::size_t first_row = t * tile_rows;
            const std::size_t count = std::min(tile_rows, rows - first_row);
            std::fill_n(sum, count * digit_lanes, 0);
            for (std::size_t b = 0; b + 1 < tile.block_starts.size(); ++b) {
                kernel.multiply_digit_block(tile.stream.data() + tile.block_starts[b],
                                            tile.stream.data() + tile.block_starts[b + 1],
                                            panel.data() + b * panels.block_width * digit_lanes,
                                            sum);
            }
            kernel.scale_digit_sums(
                sum, count, units.data(), lows.data(), row_sums.data() + first_row,
                out.bias.empty() ? nullptr : out.bias.data() + first_row, total);
            kernel.transpose(total, digit_lanes, count, ranges.size(), out.products + first_row,
                             rows);
            for (std::size_t n = 0; n < ranges.size(); ++n) {
                if (fits_fixed_point(sliding, ranges[n]))
                    out.finish(n, first_row, first_row + count);
            }
        }
    });
}

}  // namespace

void multiply_panels(const PackedMatrix::Layout& layout, const Panels& panels, const float* x,
                     std::size_t batch, const Outputs& out, int threads) {
    const Kernels& kernel = kernels(layout.isa);
    const std::size_t rows = layout.rows;
    const std::size_t cols = layout.cols;
    const std::size_t most_lanes = lanes_for(batch);
    const std::size_t tiles = panels.tiles.size();
    const std::size_t pieces = std::min(tiles, static_cast<std::size_t>(std::max(threads, 1)));
    const std::size_t tile_size = std::min(rows, tile_rows) * most_lanes;
    const std::size_t blocks = (cols + panels.block_width - 1) / panels.block_width;
    // With one fold the totals of a tile are finished before those of the next begin.
    const bool once = blocks <= blocks_per_fold;
    // The part of the panel that a fold needs stays in the second cache. Lanes that no vector fills
    // are zeros, for memory may hold denormals, each product with which takes a hundred times as
    // long.
    support::AlignedBuffer<float> panel(
        std::min(cols, blocks_per_fold * panels.block_width) * most_lanes,
        batch < most_lanes ? support::Fill::zeros : support::Fill::none);
    support::AlignedBuffer<float> sums(once ? 0 : pieces * tile_size, support::Fill::none);
    support::AlignedBuffer<float> totals(once ? pieces * tile_size : rows * most_lanes,
                                         support::Fill::none);
    for (std::size_t first = 0, vectors = 0; first < batch; first += vectors) {
        const std::size_t lanes = lanes_for(batch - first);
        vectors = std::min(lanes, batch - first);
        const float* source = x + first * cols;
        const Outputs own = out.past(first);
        const NotFinite not_finite(layout, source, vectors);
        Fold fold{0, 0};
        do {
            fold = {fold.last, std::min(blocks, fold.last + blocks_per_fold)};
            const std::size_t column = fold.first * panels.block_width;
            const std::size_t columns = std::min(cols, fold.last * panels.block_width) - column;
            parallel_for(columns, column_grain, threads, [&](std::size_t begin, std::size_t end) {
                kernel.transpose(source + column + begin, cols, vectors, end - begin,
                                 panel.data() + begin * lanes, lanes);
            });
            parallel_for(pieces, 1, threads, [&](std::size_t begin, std::size_t end) {
                for (std::size_t t = tiles * begin / pieces; t < tiles * end / pieces; ++t) {
                    const std::size_t first_row = t * tile_rows;
                    const std::size_t count = std::min(tile_rows, rows - first_row);
                    float* total = totals.data() + (once ? begin * tile_size : first_row * lanes);
                    for (std::size_t r = 0; fold.first == 0 && r < count; ++r) {
                        std::fill_n(total + r * lanes, lanes,
                                    out.bias.empty() ? 0.0F : out.bias[first_row + r]);
                    }
                    multiply_tile(kernel, panels.tiles[t], fold, panels.block_width * lanes,
                                  layout.codebook.data(), panel.data(), lanes,
                                  sums.data() + begin * tile_size, count * lanes, total);
                    if (fold.last != blocks) continue;
                    kernel.transpose(total, lanes, count, vectors, own.products + first_row, rows);
                    for (std::size_t n = 0; n < vectors; ++n) {
                        not_finite.spread(n, first_row, first_row + count,
                                          own.products + n * rows + first_row);
                        own.finish(n, first_row, first_row + count);
                    }
                }
            });
        } while (fold.last != blocks);
    }
}

void multiply_digit_panels(const PackedMatrix::Layout& layout, const Panels& panels, const float* x,
                           std::size_t batch, const Outputs& out, int threads) {
    const Sliding& sliding = *layout.sliding();
    std::vector<float> row_sums(layout.rows);
    for (std::size_t i = 0; i < row_sums.size(); ++i) {
        row_sums[sliding.row_order[i]] = sliding.sums[i];
    }
    const ActivationRange range_of = kernels(layout.isa).activation_range;
    for (std::size_t first = 0; first < batch; first += digit_lanes) {
        const float* vectors = x + first * layout.cols;
        const Outputs own = out.past(first);
        std::array<Range, digit_lanes> ranges;
        const std::size_t count = std::min(digit_lanes, batch - first);
        for (std::size_t n = 0; n < count; ++n) {
            ranges[n] = range_of(vectors + n * layout.cols, layout.cols);
        }
        multiply_digit_panel(layout, panels, vectors, std::span(ranges).first(count), row_sums, own,
                             threads);
        for (std::size_t n = 0; n < count; ++n) {
            if (fits_fixed_point(sliding, ranges[n])) continue;
            multiply_gathering(layout, vectors + n * layout.cols, own.past(n), threads);
        }
    }
}

}  // namespace tersor::spmm
