// Filling the layout of tiles.
#include <algorithm>
#include <array>
#include <bit>
#include <numeric>

#include "spmm/rows/row_reader.hpp"
#include "spmm/tiles/layout.hpp"
#include "tersor/parallel.hpp"

namespace tersor::spmm {
namespace {

/// The rows of a group, and how far each has been taken.
class GroupReader {
public:
    GroupReader(const RowReader& source, std::size_t rows) : source_(source), rows_(rows) {}

    /// Returns the number of its non-zeros.
    std::size_t begin(std::size_t group) {
        std::size_t size = 0;
        for (std::size_t r = 0; r < group_rows; ++r) {
            const std::size_t row = group * group_rows + r;
            next_[r] = size;
            if (row < rows_) {
                const std::size_t room = size + source_.room(row);
                if (room > entries_.size()) entries_.resize(room + room / 2);
                size += source_.read(row, entries_.data() + size);
            }
            end_[r] = size;
        }
        return size;
    }

    /// Writes the masks of a block, and its codes, a byte each; returns their number.
    std::size_t take(std::size_t block, std::uint64_t* masks, std::uint8_t* codes) {
        std::array<std::size_t, group_rows> stops;
        for (std::size_t r = 0; r < group_rows; ++r) {
            std::size_t at = next_[r];
            for (; at < end_[r] && column(at) < (block + 1) * tile_columns; ++at) {
                masks[column(at) % tile_columns / 4] |= bit_of(at, r);
            }
            stops[r] = at;
        }
        std::array<std::size_t, tile_masks> starts;
        std::size_t size = 0;
        for (std::size_t m = 0; m < tile_masks; ++m) {
            starts[m] = size;
            size += static_cast<std::size_t>(std::popcount(masks[m]));
        }
        for (std::size_t r = 0; r < group_rows; ++r) {
            for (; next_[r] < stops[r]; ++next_[r]) {
                const std::size_t m = column(next_[r]) % tile_columns / 4;
                const std::uint64_t before = masks[m] & (bit_of(next_[r], r) - 1);
                codes[starts[m] + static_cast<std::size_t>(std::popcount(before))] =
                    static_cast<std::uint8_t>(entries_[next_[r]]);
            }
        }
        return size;
    }

private:
    [[nodiscard]] std::size_t column(std::size_t at) const noexcept { return entries_[at] >> 8; }
    [[nodiscard]] std::uint64_t bit_of(std::size_t at, std::size_t row) const noexcept {
        return std::uint64_t{1} << (4 * row + column(at) % 4);
    }

    const RowReader& source_;
    std::size_t rows_;
    std::vector<Entry> entries_;
    std::array<std::size_t, group_rows> next_{};
    std::array<std::size_t, group_rows> end_{};
};

/// Of the groups [begin, end), whose codes begin where the layout says.
void fill_groups(const RowReader& source, std::size_t rows, std::size_t begin, std::size_t end,
                 Tiles& layout) {
    GroupReader reader(source, rows);
    std::array<std::uint8_t, tile_bytes> codes;
    for (std::size_t g = begin; g < end; ++g) {
        reader.begin(g);
        std::uint64_t* masks = layout.masks.data() + g * layout.blocks * tile_masks;
        std::uint64_t at = layout.starts[g];
        for (std::size_t b = 0; b < layout.blocks; ++b, masks += tile_masks) {
            const std::size_t size = reader.take(b, masks, codes.data());
            for (std::size_t i = 0; i < size; ++i, ++at) {
                if (layout.nibbles()) {
                    layout.codes[at / 2] |= static_cast<std::uint8_t>(codes[i] << (at % 2 * 4));
                } else {
                    layout.codes[at] = codes[i];
                }
            }
        }
    }
}

}  // namespace

Tiles make_tiles(const RowReader& source, std::uint32_t rows, std::uint32_t cols,
                 std::size_t values, int threads) {
    Tiles layout;
    layout.blocks = (std::size_t{cols} + tile_columns - 1) / tile_columns;
    layout.values = values;
    const std::size_t groups = (rows + group_rows - 1) / group_rows;
    layout.starts.assign(groups + 1, 0);
    // No byte belongs to two groups, which two threads may fill.
    parallel_for(groups, groups_at_once, threads, [&](std::size_t begin, std::size_t end) {
        GroupReader reader(source, rows);
        for (std::size_t g = begin; g < end; ++g) {
            layout.starts[g + 1] = (reader.begin(g) + 1) / 2 * 2;
        }
    });
    std::partial_sum(layout.starts.begin(), layout.starts.end(), layout.starts.begin());
    const auto size = static_cast<std::size_t>(layout.starts.back());
    layout.masks = support::AlignedBuffer<std::uint64_t>(groups * layout.blocks * tile_masks);
    layout.codes = support::AlignedBuffer<std::uint8_t>(layout.nibbles() ? size / 2 + 1 : size);
    parallel_for(groups, groups_at_once, threads, [&](std::size_t begin, std::size_t end) {
        fill_groups(source, rows, begin, end, layout);
    });
    return layout;
}

}  // namespace tersor::spmm
