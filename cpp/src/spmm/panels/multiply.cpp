// Products in panels. Each thread takes groups of vectors, or tiles of rows of one: it looks for
// what is not finite and transposes for itself, into its own caches, for a panel that another core
// has made takes as long to fetch as to make, and waiting for it comes on top.
#include "spmm/panels/multiply.hpp"

#include <algorithm>
#include <array>
#include <cstdint>
#include <type_traits>
#include <vector>

#include "spmm/activations/kernels.hpp"
#include "spmm/csr16/multiply.hpp"
#include "spmm/not_finite.hpp"
#include "spmm/panels/kernels.hpp"
#include "spmm/sell/multiply.hpp"
#include "spmm/split_work.hpp"
#include "support/scratch.hpp"
#include "tersor/parallel.hpp"

namespace tersor::spmm {
namespace {

/// Blocks that are added up before they are added to the totals.
struct Fold {
    std::size_t first;  // block
    std::size_t last;
};

/// The products of one group of vectors with some tiles of rows.
class GroupOfPanels {
public:
    GroupOfPanels(const PackedMatrix::Layout& layout, const Panels& panels, const float* x,
                  const VectorGroup& group, const Outputs& out)
        : layout_(layout),
          panels_(panels),
          kernel_(panels::kernels(layout.isa)),
          transpose_(activations::kernels(layout.isa).transpose),
          x_(x + group.first * layout.cols),
          vectors_(group.vectors),
          lanes_(group.lanes),
          blocks_(panels.blocks(layout.cols)),
          out_(out.past(group.first)),
          not_finite_(layout, x_, group.vectors),
          panel_(std::min<std::size_t>(layout.cols, blocks_per_fold * panels.block_width) *
                 group.lanes),
          sums_(std::min<std::size_t>(bundle_rows, layout.rows) * group.lanes) {
        // Lanes that no vector fills are zeros, for memory may hold denormals, each product with
        // which takes a hundred times as long.
        if (vectors_ < lanes_) std::fill_n(panel_.data(), panel_.size(), 0.0F);
    }

    /// The tiles [begin, end). The part of the panel that a fold needs stays in the second cache.
    void multiply(std::size_t begin, std::size_t end) {
        if (blocks_ <= blocks_per_fold) {
            // The totals of a bundle are finished before those of the next begin.
            transpose({0, blocks_});
            for_each_bundle(begin, end, [&](std::size_t first, std::size_t last) {
                start(first, last, sums_.data());
                add_blocks({0, blocks_}, first, last, sums_.data());
                finish(first, last, sums_.data());
            });
        } else if (panels_.wide_totals(layout_.cols)) {
            multiply_folds<double>(begin, end);
        } else {
            multiply_folds<float>(begin, end);
        }
    }

private:
    [[nodiscard]] std::size_t row_of(std::size_t tile) const noexcept {
        return std::min<std::size_t>(tile * panels_.tile_rows, layout_.rows);
    }

    /// Calls `visit(first, last)` for runs of tiles that pass over a block together.
    template <class Visit>
    void for_each_bundle(std::size_t begin, std::size_t end, const Visit& visit) const {
        const std::size_t tiles = bundle_rows / panels_.tile_rows;
        for (std::size_t first = begin; first < end; first += tiles) {
            visit(first, std::min(first + tiles, end));
        }
    }

    /// The first fold goes into the totals themselves where these are of fp32.
    template <class Total>
    void multiply_folds(std::size_t begin, std::size_t end) {
        constexpr bool direct = std::is_same_v<Total, float>;
        const std::size_t first_row = row_of(begin);
        const support::Scratch<Total> totals((row_of(end) - first_row) * lanes_);
        for (Fold fold{0, std::min(blocks_, blocks_per_fold)}; fold.first < blocks_;
             fold = {fold.last, std::min(blocks_, fold.last + blocks_per_fold)}) {
            transpose(fold);
            for_each_bundle(begin, end, [&](std::size_t first, std::size_t last) {
                const std::size_t size = (row_of(last) - row_of(first)) * lanes_;
                Total* total = totals.data() + (row_of(first) - first_row) * lanes_;
                float* target = sums_.data();
                if constexpr (direct) target = fold.first == 0 ? total : target;
                if (fold.first == 0) start(first, last, total);
                if (static_cast<void*>(target) != total) std::fill_n(target, size, 0.0F);
                add_blocks(fold, first, last, target);
                for (std::size_t i = 0; static_cast<void*>(target) != total && i < size; ++i) {
                    total[i] += Total{target[i]};
                }
                if (fold.last != blocks_) return;
                if constexpr (direct) {
                    finish(first, last, total);
                } else {
                    for (std::size_t i = 0; i < size; ++i) target[i] = static_cast<float>(total[i]);
                    finish(first, last, target);
                }
            });
        }
    }

    void transpose(Fold fold) {
        const std::size_t column = fold.first * panels_.block_width;
        const std::size_t columns =
            std::min<std::size_t>(layout_.cols, fold.last * panels_.block_width) - column;
        transpose_(x_ + column, layout_.cols, vectors_, columns, panel_.data(), lanes_);
    }

    /// The bias, or zero, for the rows of the tiles [first, last).
    template <class Total>
    void start(std::size_t first, std::size_t last, Total* totals) const noexcept {
        for (std::size_t r = row_of(first); r < row_of(last); ++r, totals += lanes_) {
            std::fill_n(totals, lanes_, out_.bias.empty() ? Total{0} : Total{out_.bias[r]});
        }
    }

    void add_blocks(Fold fold, std::size_t first, std::size_t last, float* sums) const noexcept {
        const float* panel = panel_.data();
        for (std::size_t b = fold.first; b < fold.last; ++b) {
            for (std::size_t t = first; t < last; ++t) {
                const PanelTile& tile = panels_.tiles[t];
                kernel_.multiply_block(tile.stream.data() + tile.block_starts[b],
                                       tile.stream.data() + tile.block_starts[b + 1],
                                       layout_.codebook.data(), panel, lanes_,
                                       sums + (row_of(t) - row_of(first)) * lanes_);
            }
            panel += panels_.block_width * lanes_;
        }
    }

    void finish(std::size_t first, std::size_t last, const float* totals) const noexcept {
        const std::size_t row = row_of(first);
        const std::size_t end = row_of(last);
        transpose_(totals, lanes_, end - row, vectors_, out_.products + row, layout_.rows);
        for (std::size_t n = 0; n < vectors_; ++n) {
            not_finite_.spread(n, row, end, out_.products + n * layout_.rows + row);
            out_.apply_epilogue(n, row, end);
        }
    }

    const PackedMatrix::Layout& layout_;
    const Panels& panels_;
    const panels::Kernels& kernel_;
    activations::Transpose transpose_;
    const float* x_;
    std::size_t vectors_;
    std::size_t lanes_;
    std::size_t blocks_;
    Outputs out_;
    NotFinite not_finite_;
    support::Scratch<float> panel_;
    support::Scratch<float> sums_;
};

/// The limbs of a batch, and what turns their products into numbers.
struct BatchLimbs {
    const float* vectors;  // [batch, cols], what the limbs are of
    std::size_t stride;
    const std::uint8_t* panels;  // [groups, stride, limb_lanes]
    std::span<Range> ranges;     // [batch]
    std::span<float> units;      // [batch, filled up to whole groups]
    std::span<float> lows;       // the same
    std::span<float> row_sums;   // [rows] of the weights as the limbs have them
};

/// Products of one group of up to `limb_lanes` vectors with the tiles [begin, end); vectors that
/// do not fit fixed point are left to the caller.
void multiply_limb_tiles(const PackedMatrix::Layout& layout, const Panels& panels,
                         const BatchLimbs& x, const VectorGroup& group, const Outputs& out,
                         std::size_t begin, std::size_t end) {
    const panels::Kernels& kernel = panels::kernels(layout.isa);
    const Sell& sell = *layout.sell();
    const std::size_t rows = layout.rows;
    const std::uint8_t* const panel = x.panels + group.first * x.stride;
    const std::size_t tile_size = std::min(rows, panels.tile_rows) * limb_lanes;
    const support::Scratch<std::int32_t> sums(tile_size);
    const support::Scratch<float> totals(tile_size);
    for (std::size_t t = begin; t < end; ++t) {
        const PanelTile& tile = panels.tiles[t];
        const std::size_t first_row = t * panels.tile_rows;
        const std::size_t count = std::min(panels.tile_rows, rows - first_row);
        std::fill_n(sums.data(), count * limb_lanes, 0);
        for (std::size_t b = 0; b + 1 < tile.block_starts.size(); ++b) {
            kernel.multiply_limb_block(tile.stream.data() + tile.block_starts[b],
                                       tile.stream.data() + tile.block_starts[b + 1],
                                       panel + b * panels.block_width * limb_lanes, sums.data());
        }
        kernel.scale_limb_sums(sums.data(), count, x.units.data() + group.first,
                               x.lows.data() + group.first, x.row_sums.data() + first_row,
                               out.bias.empty() ? nullptr : out.bias.data() + first_row,
                               totals.data());
        activations::kernels(layout.isa)
            .transpose(totals.data(), limb_lanes, count, group.vectors,
                       out.products + group.first * rows + first_row, rows);
        for (std::size_t n = group.first; n < group.first + group.vectors; ++n) {
            if (!fits_fixed_point(sell, x.ranges[n])) continue;
            sell.outliers.add_products(first_row, first_row + count, x.vectors + n * layout.cols,
                                       out.products + n * rows);
            out.apply_epilogue(n, first_row, first_row + count);
        }
    }
}

/// Vectors whose limbs are there at a time.
constexpr std::size_t most_limb_vectors = 16 * limb_lanes;

void multiply_limbs_of(const PackedMatrix::Layout& layout, const Panels& panels, const float* x,
                       std::size_t batch, const Outputs& out, int threads) {
    const activations::Kernels& kernel = activations::kernels(layout.isa);
    const Sell& sell = *layout.sell();
    const Limbs& weights = sell.limbs[0];
    const RowTiles tiles{layout.rows, panels.tile_rows};
    const std::size_t cols = layout.cols;
    std::vector<VectorGroup> groups;
    for (std::size_t first = 0; first < batch; first += limb_lanes) {
        groups.push_back(
            {first, std::min(limb_lanes, batch - first), limb_lanes, first * tiles.rows});
    }
    const std::size_t places = groups.size() * limb_lanes;
    // An odd number of cache lines, so that a column of all vectors is not in one set of the cache.
    const std::size_t stride = ((cols + 63) / 64 | 1) * 64;
    const support::Scratch<std::uint8_t> limbs(places * stride);
    const support::Scratch<std::uint8_t> interleaved(places * stride);
    const support::Scratch<Range> ranges(batch);
    const support::Scratch<float> units(places);
    const support::Scratch<float> lows(places);
    const support::Scratch<float> row_sums(layout.rows);
    for (std::size_t i = 0; i < row_sums.size(); ++i) {
        row_sums[sell.row_order[i]] = sell.sums[i];
    }
    std::fill_n(units.data(), places, 0.0F);
    std::fill_n(lows.data(), places, 0.0F);
    parallel_for(batch, 1, threads, [&](std::size_t begin, std::size_t end) {
        for (std::size_t n = begin; n < end; ++n) {
            ranges[n] = kernel.range(x + n * cols, cols);
            if (!fits_fixed_point(sell, ranges[n])) continue;
            const FixedScale scale = scale_of(ranges[n], 1, weights.bits);
            kernel.split(x + n * cols, cols, ranges[n].low, scale.factor, 1,
                         limbs.data() + n * stride, stride);
            units[n] = static_cast<float>(scale.unit * weights.unit);
            lows[n] = ranges[n].low;
        }
    });
    parallel_for(places * stride / (64 * limb_lanes), 4, threads,
                 [&](std::size_t begin, std::size_t end) {
                     const std::size_t in_group = stride / 64;
                     for (std::size_t i = begin; i < end; ++i) {
                         const std::size_t first = i / in_group * limb_lanes * stride;
                         const std::size_t column = i % in_group * 64;
                         panels::kernels(layout.isa)
                             .interleave_limbs(limbs.data() + first + column, stride, 64,
                                               interleaved.data() + first + column * limb_lanes);
                     }
                 });
    const BatchLimbs vectors{x, stride, interleaved.data(), ranges, units, lows, row_sums};
    const std::size_t pieces =
        std::min(groups.size() * tiles.count(), static_cast<std::size_t>(std::max(threads, 1)));
    parallel_for(pieces, 1, threads, [&](std::size_t begin, std::size_t end) {
        for_each_share(groups, tiles, pieces, begin, end,
                       [&](const VectorGroup& group, std::size_t first, std::size_t last) {
                           multiply_limb_tiles(layout, panels, vectors, group, out, first, last);
                       });
    });
    for (std::size_t n = 0; n < batch; ++n) {
        if (fits_fixed_point(sell, ranges[n])) continue;
        multiply_gathering(layout, x + n * cols, out.past(n), threads);
    }
}

}  // namespace

void multiply_panels(const PackedMatrix::Layout& layout, const Panels& panels, const float* x,
                     std::size_t batch, const Outputs& out, int threads) {
    const RowTiles tiles{layout.rows, panels.tile_rows};
    const auto most = static_cast<std::size_t>(std::max(threads, 1));
    const std::vector<VectorGroup> groups =
        vector_groups(layout.nonzeros, layout.cols, tiles, batch, most);
    const std::size_t pieces = std::min(groups.size() * tiles.count(), most);
    parallel_for(pieces, 1, threads, [&](std::size_t begin, std::size_t end) {
        for_each_share(groups, tiles, pieces, begin, end,
                       [&](const VectorGroup& group, std::size_t first, std::size_t last) {
                           GroupOfPanels(layout, panels, x, group, out).multiply(first, last);
                       });
    });
}

void multiply_limb_panels(const PackedMatrix::Layout& layout, const Panels& panels, const float* x,
                          std::size_t batch, const Outputs& out, int threads) {
    for (std::size_t first = 0; first < batch; first += most_limb_vectors) {
        multiply_limbs_of(layout, panels, x + first * layout.cols,
                          std::min(most_limb_vectors, batch - first), out.past(first), threads);
    }
}

}  // namespace tersor::spmm
