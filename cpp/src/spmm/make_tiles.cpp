// Filling the layout of tiles.
#include <algorithm>
#include <array>
#include <bit>

#include "spmm/kernels.hpp"
#include "spmm/row_source.hpp"
#include "spmm/tiles.hpp"

namespace tersor::spmm {
namespace {

/// The rows of a group, and how far each has been taken.
class GroupReader {
public:
    GroupReader(const Rows16Rows& source, std::size_t rows) : source_(source), rows_(rows) {}

    void begin(std::size_t group) {
        std::size_t size = 0;
        entries_.clear();
        for (std::size_t r = 0; r < group_rows; ++r) {
            const std::size_t row = group * group_rows + r;
            const std::size_t count = row < rows_ ? source_.nonzeros(row) : 0;
            entries_.resize(size + count + read_slack);
            next_[r] = size;
            end_[r] = count == 0 ? size : size + source_.read(row, entries_.data() + size);
            size = end_[r];
        }
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

    const Rows16Rows& source_;
    std::size_t rows_;
    std::vector<Entry> entries_;
    std::array<std::size_t, group_rows> next_{};
    std::array<std::size_t, group_rows> end_{};
};

}  // namespace

Tiles make_tiles(const Rows16& rows16, std::uint32_t rows, std::uint32_t cols, std::size_t values) {
    const Rows16Rows source(rows16, cols, Isa::scalar);
    std::size_t nonzeros = 0;
    for (std::size_t r = 0; r < rows; ++r) nonzeros += source.nonzeros(r);
    Tiles layout;
    layout.blocks = (std::size_t{cols} + tile_columns - 1) / tile_columns;
    layout.values = values;
    const std::size_t groups = (rows + group_rows - 1) / group_rows;
    layout.masks = support::AlignedBuffer<std::uint64_t>(groups * layout.blocks * tile_masks);
    layout.codes =
        support::AlignedBuffer<std::uint8_t>(layout.nibbles() ? nonzeros / 2 + 1 : nonzeros);
    layout.starts = {0};
    GroupReader reader(source, rows);
    std::array<std::uint8_t, tile_bytes> codes;
    std::uint64_t* masks = layout.masks.data();
    std::uint64_t at = 0;
    for (std::size_t g = 0; g < groups; ++g) {
        reader.begin(g);
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
        layout.starts.push_back(at);
    }
    return layout;
}

}  // namespace tersor::spmm
