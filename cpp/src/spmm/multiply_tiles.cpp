#include "spmm/multiply_tiles.hpp"

#include <algorithm>
#include <cstring>
#include <span>
#include <vector>

#include "spmm/kernels.hpp"
#include "spmm/products.hpp"
#include "tersor/parallel.hpp"

namespace tersor::spmm {
namespace {

/// Vectors whose digits are made at a time.
constexpr std::size_t vectors_at_once = 128;

/// The digits of some vectors as tiles; zeros for those that do not fit fixed point.
class DigitTiles {
public:
    DigitTiles(const PackedMatrix::Layout& layout, const Tiles& tiles, Arithmetic arithmetic,
               const float* x, std::span<const Range> ranges, int threads)
        : units_(ranges.size()), lows_(ranges.size()) {
        const Kernels& kernel = kernels(layout.isa);
        const Sliding& sliding = *layout.sliding();
        const auto count = static_cast<std::size_t>(arithmetic.x_digits);
        const std::size_t plane = tiles.blocks * tile_bytes;
        const std::size_t stride = tiles.blocks * tile_columns;
        const std::size_t x_tiles = (ranges.size() + tile_vectors - 1) / tile_vectors;
        digits_ = support::AlignedBuffer<std::uint8_t>(x_tiles * count * plane);
        const auto pieces = std::min(ranges.size(), static_cast<std::size_t>(std::max(threads, 1)));
        support::AlignedBuffer<std::uint8_t> planes(pieces * count * stride);
        parallel_for(pieces, 1, threads, [&](std::size_t begin, std::size_t end) {
            std::uint8_t* own = planes.data() + begin * count * stride;
            const std::size_t last = ranges.size() * end / pieces;
            for (std::size_t n = ranges.size() * begin / pieces; n < last; ++n) {
                if (!fits_fixed_point(sliding, ranges[n])) continue;
                const FixedScale scale =
                    scale_of(ranges[n], arithmetic.x_digits, sliding.shape.digit_bits);
                units_[n] = scale.unit;
                lows_[n] = ranges[n].low;
                kernel.split_activations(x + n * layout.cols, layout.cols, ranges[n].low,
                                         scale.factor, arithmetic.x_digits, own, stride);
                std::uint8_t* to = digits_.data() + n / tile_vectors * count * plane +
                                   n % tile_vectors * tile_columns;
                for (std::size_t p = 0; p < count; ++p) {
                    for (std::size_t b = 0; b < tiles.blocks; ++b) {
                        std::memcpy(to + (b * count + p) * tile_bytes,
                                    own + p * stride + b * tile_columns, tile_columns);
                    }
                }
            }
        });
    }

    [[nodiscard]] TileActivations view() const noexcept {
        return {digits_.data(), units_.size(), units_.data(), lows_.data()};
    }

private:
    support::AlignedBuffer<std::uint8_t> digits_;
    std::vector<double> units_;
    std::vector<double> lows_;
};

/// The sums of each row's weights.
std::vector<double> row_sums_of(const PackedMatrix::Layout& layout, bool exact) {
    const Sliding& sliding = *layout.sliding();
    std::vector<double> row_sums(layout.rows);
    for (std::size_t i = 0; i < row_sums.size(); ++i) {
        const double rest = exact ? double{layout.highest_rows().sum_rests[i]} : 0.0;
        row_sums[sliding.row_order[i]] = double{sliding.sums[i]} + rest;
    }
    return row_sums;
}

}  // namespace

void multiply_tiles(const PackedMatrix::Layout& layout, const Tiles& tiles, Arithmetic arithmetic,
                    const float* x, std::size_t batch, const Outputs& out, int threads) {
    const Kernels& kernel = kernels(layout.isa);
    const Sliding& sliding = *layout.sliding();
    const bool finest = arithmetic == finest_arithmetic;
    const Digits& weights = sliding.digits[static_cast<std::size_t>(arithmetic.w_digits - 1)];
    const std::vector<double> row_sums = row_sums_of(layout, finest);
    const std::size_t pieces = (tiles.groups() + groups_at_once - 1) / groups_at_once;
    const std::size_t workers = std::min(pieces, static_cast<std::size_t>(std::max(threads, 1)));
    constexpr std::size_t sums_size = groups_at_once * most_tile_sums;
    constexpr std::size_t totals_size = groups_at_once * most_tile_totals;
    support::AlignedBuffer<std::int32_t> sums(workers * sums_size, support::Fill::none);
    support::AlignedBuffer<double> totals(workers * totals_size, support::Fill::none);
    for (std::size_t first = 0; first < batch; first += vectors_at_once) {
        const std::size_t count = std::min(vectors_at_once, batch - first);
        const float* vectors = x + first * layout.cols;
        const Outputs own = out.past(first);
        std::vector<Range> ranges(count);
        for (std::size_t n = 0; n < count; ++n) {
            ranges[n] = kernel.activation_range(vectors + n * layout.cols, layout.cols);
        }
        const DigitTiles digits(layout, tiles, arithmetic, vectors, ranges, threads);
        const TileOutputs products{own.products, layout.rows, row_sums.data(),
                                   finest || own.bias.empty() ? nullptr : own.bias.data()};
        parallel_for(workers, 1, threads, [&](std::size_t begin, std::size_t end) {
            const TileWork work{sums.data() + begin * sums_size,
                                totals.data() + begin * totals_size};
            for (std::size_t p = pieces * begin / workers; p < pieces * end / workers; ++p) {
                const std::size_t group = p * groups_at_once;
                const std::size_t last = std::min(tiles.groups(), group + groups_at_once);
                kernel.multiply_tiles(tiles, weights, arithmetic, digits.view(), products, work,
                                      group, last);
                if (finest) continue;
                const std::size_t row_end = std::min<std::size_t>(layout.rows, last * group_rows);
                for (std::size_t n = 0; n < count; ++n) {
                    if (fits_fixed_point(sliding, ranges[n]))
                        own.finish(n, group * group_rows, row_end);
                }
            }
        });
        for (std::size_t n = 0; n < count; ++n) {
            const float* vector = vectors + n * layout.cols;
            if (!fits_fixed_point(sliding, ranges[n])) {
                multiply_gathering(layout, vector, own.past(n), threads);
            } else if (finest) {
                finish_fixed(layout, sliding, arithmetic, ranges[n], vector, own.past(n), threads);
            }
        }
    }
}

}  // namespace tersor::spmm
