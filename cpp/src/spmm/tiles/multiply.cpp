#include "spmm/tiles/multiply.hpp"

#include <algorithm>
#include <cstring>
#include <span>
#include <vector>

#include "spmm/activations/kernels.hpp"
#include "spmm/csr16/multiply.hpp"
#include "spmm/sell/multiply.hpp"
#include "spmm/tiles/kernels.hpp"
#include "support/scratch.hpp"
#include "tersor/parallel.hpp"

namespace tersor::spmm {
namespace {

/// Vectors whose limbs are made at a time.
constexpr std::size_t vectors_at_once = 128;

/// The limbs of some vectors as tiles; zeros for those that do not fit fixed point.
class LimbTiles {
public:
    LimbTiles(const PackedMatrix::Layout& layout, const Tiles& tiles, Arithmetic arithmetic,
              std::size_t vectors)
        : layout_(layout),
          arithmetic_(arithmetic),
          blocks_(tiles.blocks),
          limbs_((vectors + tile_vectors - 1) / tile_vectors * tile_vectors * bytes_of_vector()),
          ranges_(vectors),
          units_(vectors),
          lows_(vectors) {
        // The places that no vector fills.
        const std::size_t last = vectors / tile_vectors * tile_vectors * bytes_of_vector();
        if (vectors % tile_vectors != 0) {
            std::memset(limbs_.data() + last, 0, limbs_.size() - last);
        }
    }

    /// Of vector n, in `planes` of limbs that are the caller's.
    void set(std::size_t n, const float* x, std::span<std::uint8_t> planes) const noexcept {
        const activations::Kernels& kernel = activations::kernels(layout_.isa);
        const auto count = static_cast<std::size_t>(arithmetic_.x_limbs);
        const std::size_t stride = blocks_ * tile_columns;
        const Range range = kernel.range(x, layout_.cols);
        ranges_[n] = range;
        units_[n] = lows_[n] = 0.0;
        if (fits_fixed_point(*layout_.sell(), range)) {
            const int bits = layout_.sell()->shape.limb_bits;
            const FixedScale scale = scale_of(range, arithmetic_.x_limbs, bits);
            units_[n] = scale.unit;
            lows_[n] = range.low;
            // Columns past the last have no weights.
            kernel.split(x, layout_.cols, range.low, scale.factor, arithmetic_.x_limbs,
                         planes.data(), stride);
        } else {
            std::ranges::fill(planes, std::uint8_t{0});
        }
        std::uint8_t* to = limbs_.data() + n / tile_vectors * tile_vectors * bytes_of_vector() +
                           n % tile_vectors * tile_columns;
        for (std::size_t p = 0; p < count; ++p) {
            for (std::size_t b = 0; b < blocks_; ++b) {
                std::memcpy(to + (b * count + p) * tile_bytes,
                            planes.data() + p * stride + b * tile_columns, tile_columns);
            }
        }
    }

    [[nodiscard]] std::size_t bytes_of_vector() const noexcept {
        return static_cast<std::size_t>(arithmetic_.x_limbs) * blocks_ * tile_columns;
    }
    [[nodiscard]] const Range& range(std::size_t n) const noexcept { return ranges_[n]; }
    [[nodiscard]] bool fits(std::size_t n) const noexcept {
        return fits_fixed_point(*layout_.sell(), ranges_[n]);
    }
    [[nodiscard]] TileActivations view() const noexcept {
        return {limbs_.data(), units_.size(), units_.data(), lows_.data()};
    }

private:
    const PackedMatrix::Layout& layout_;
    Arithmetic arithmetic_;
    std::size_t blocks_;
    support::Scratch<std::uint8_t> limbs_;
    support::Scratch<Range> ranges_;
    support::Scratch<double> units_;
    support::Scratch<double> lows_;
};

/// The sums of each row's weights.
std::vector<double> row_sums_of(const PackedMatrix::Layout& layout, bool exact) {
    const Sell& sell = *layout.sell();
    std::vector<double> row_sums(layout.rows);
    for (std::size_t i = 0; i < row_sums.size(); ++i) {
        const double correction = exact ? double{layout.highest_rows().sum_rests[i]} : 0.0;
        row_sums[sell.row_order[i]] = double{sell.sums[i]} + correction;
    }
    return row_sums;
}

}  // namespace

void multiply_tiles(const PackedMatrix::Layout& layout, const Tiles& tiles, Arithmetic arithmetic,
                    const float* x, std::size_t batch, const Outputs& out, int threads) {
    const tiles::Multiply multiply = tiles::kernels(layout.isa).multiply;
    const Sell& sell = *layout.sell();
    const bool finest = arithmetic == finest_arithmetic;
    const Limbs& weights = sell.limbs[static_cast<std::size_t>(arithmetic.w_limbs - 1)];
    const std::vector<double> row_sums = row_sums_of(layout, finest);
    const auto most = static_cast<std::size_t>(std::max(threads, 1));
    const std::size_t groups =
        std::min(groups_at_once, (tiles.groups() + most - 1) / most);  // of a piece
    const std::size_t pieces = (tiles.groups() + groups - 1) / groups;
    const std::size_t workers = std::min(pieces, most);
    for (std::size_t first = 0; first < batch; first += vectors_at_once) {
        const std::size_t count = std::min(vectors_at_once, batch - first);
        const float* vectors = x + first * layout.cols;
        const Outputs part_out = out.past(first);
        const LimbTiles limbs(layout, tiles, arithmetic, count);
        parallel_for(count, 1, threads, [&](std::size_t begin, std::size_t end) {
            const support::Scratch<std::uint8_t> planes(limbs.bytes_of_vector());
            for (std::size_t n = begin; n < end; ++n) {
                limbs.set(n, vectors + n * layout.cols, planes);
            }
        });
        const TileOutputs products{
            part_out.products, layout.rows, row_sums.data(),
            finest || part_out.bias.empty() ? nullptr : part_out.bias.data()};
        parallel_for(workers, 1, threads, [&](std::size_t begin, std::size_t end) {
            const support::Scratch<std::int32_t> sums(groups_at_once * most_tile_sums);
            const support::Scratch<double> totals(groups_at_once * most_tile_totals);
            const TileWork work{sums.data(), totals.data()};
            for (std::size_t p = pieces * begin / workers; p < pieces * end / workers; ++p) {
                const std::size_t group = p * groups;
                const std::size_t last = std::min(tiles.groups(), group + groups);
                multiply(tiles, weights, arithmetic, limbs.view(), products, work, group, last);
                const std::size_t row = group * group_rows;
                const std::size_t row_end = std::min<std::size_t>(layout.rows, last * group_rows);
                for (std::size_t n = 0; n < count; ++n) {
                    if (!limbs.fits(n)) continue;
                    sell.outliers.add_products(row, row_end, vectors + n * layout.cols,
                                               part_out.products + n * layout.rows);
                    if (!finest) part_out.apply_epilogue(n, row, row_end);
                }
            }
        });
        parallel_for(count, 1, threads, [&](std::size_t begin, std::size_t end) {
            for (std::size_t n = begin; n < end; ++n) {
                const float* vector = vectors + n * layout.cols;
                if (!limbs.fits(n)) {
                    multiply_gathering(layout, vector, part_out.past(n), 1);
                } else if (finest) {
                    finish_fixed(layout, sell, arithmetic, limbs.range(n), vector,
                                 part_out.past(n));
                }
            }
        });
    }
}

}  // namespace tersor::spmm
