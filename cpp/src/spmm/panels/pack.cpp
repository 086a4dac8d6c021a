// Filling the panel layout.
#include <algorithm>
#include <array>
#include <cmath>

#include "spmm/panels/layout.hpp"
#include "tersor/parallel.hpp"

namespace tersor::spmm {
namespace {

/// The rows of a tile, and how far each has been taken.
class TileWriter {
public:
    TileWriter(const RowReader& source, const PanelEntries& entries, std::size_t block_width,
               std::size_t first_row, std::size_t rows)
        : entries_(entries), width_(block_width), next_(rows), end_(rows) {
        std::size_t at = 0;
        for (std::size_t r = 0; r < rows; ++r) {
            const std::size_t room = at + source.room(first_row + r);
            if (room > rows_.size()) rows_.resize(room + room / 2);
            next_[r] = at;
            at += source.read(first_row + r, rows_.data() + at);
            end_[r] = at;
        }
        stream_.reserve(at + at / 4);
    }

    void add_block(std::size_t block) {
        const std::size_t first = block * width_;
        std::array<std::vector<std::uint16_t>, max_block_width + 1> rows_by_count;
        for (std::size_t r = 0; r < next_.size(); ++r) {
            std::size_t at = next_[r];
            while (at < end_[r] && column(at) < first + width_) ++at;
            const std::size_t count = at - next_[r];
            const std::size_t filled =
                (count + entries_.multiple - 1) / entries_.multiple * entries_.multiple;
            rows_by_count[filled].push_back(static_cast<std::uint16_t>(r));
        }
        for (std::size_t count = 1; count < rows_by_count.size(); ++count) {
            const std::vector<std::uint16_t>& run = rows_by_count[count];
            if (run.empty()) continue;
            largest_count_ = std::max(largest_count_, count);
            stream_.push_back(static_cast<std::uint16_t>(count));
            stream_.push_back(static_cast<std::uint16_t>(run.size()));
            for (const std::uint16_t r : run) {
                stream_.push_back(r);
                for (std::size_t i = 0; i < count; ++i) {
                    const std::size_t at = next_[r];
                    const bool filler = at == end_[r] || column(at) >= first + width_;
                    stream_.push_back(filler ? std::uint16_t{0}
                                             : static_cast<std::uint16_t>(
                                                   (column(at) - first) << 8 |
                                                   entries_.byte_of_code[rows_[at] & 255]));
                    next_[r] += filler ? 0 : 1;
                }
            }
        }
    }

    [[nodiscard]] const std::vector<std::uint16_t>& stream() const noexcept { return stream_; }
    [[nodiscard]] std::size_t largest_count() const noexcept { return largest_count_; }

private:
    [[nodiscard]] std::size_t column(std::size_t at) const noexcept { return rows_[at] >> 8; }

    const PanelEntries& entries_;
    std::size_t width_;
    std::vector<Entry> rows_;
    std::vector<std::size_t> next_;
    std::vector<std::size_t> end_;
    std::vector<std::uint16_t> stream_;
    std::size_t largest_count_ = 0;
};

/// The width for a density, if the rows are alike: where none of them is likely to have more
/// entries in a block than `high` allows.
std::size_t width_for(std::size_t rows, std::size_t cols, std::size_t nonzeros) noexcept {
    const double density =
        static_cast<double>(nonzeros) / (static_cast<double>(rows) * static_cast<double>(cols));
    const double columns = static_cast<double>(block_row_entries) / std::max(density, 1e-6);
    const auto width = static_cast<std::size_t>(std::min(columns, 1e6)) / 32 * 32;
    const std::size_t usual = std::clamp(width, min_block_width, max_block_width);
    // Of a million blocks of rows the fullest is five standard deviations above the mean.
    const double mean = density * static_cast<double>(usual);
    const double fullest = mean + 5.0 * std::sqrt(mean * std::max(1.0 - density, 0.0));
    return meets_high(chain_of(static_cast<std::size_t>(fullest) + 1)) ? usual : least_block_width;
}

}  // namespace

PanelEntries code_entries() {
    PanelEntries entries{{}, 0, 1};
    for (std::size_t code = 0; code < 256; ++code) {
        entries.byte_of_code[code] = static_cast<std::uint8_t>(code);
    }
    return entries;
}

PanelEntries limb_entries(const Limbs& limbs) {
    PanelEntries entries{{}, max_block_width, 4};
    for (std::size_t code = 0; code < 256; ++code) {
        entries.byte_of_code[code] = static_cast<std::uint8_t>(limbs.table[0][code]);
    }
    return entries;
}

std::size_t Panels::nbytes() const noexcept {
    std::size_t bytes = 0;
    for (const PanelTile& tile : tiles)
        bytes += tile.stream.nbytes() + 4 * tile.block_starts.size();
    return bytes;
}

bool Panels::wide_totals(std::size_t cols) const noexcept {
    const std::size_t folds = (blocks(cols) + blocks_per_fold - 1) / blocks_per_fold;
    return chain_of(largest_count) + blocks_per_fold + folds > most_roundings;
}

namespace {

Panels make_panels_of(const RowReader& source, std::size_t rows, std::size_t cols,
                      const PanelEntries& entries, std::size_t block_width, int threads) {
    Panels layout;
    layout.block_width = block_width;
    layout.tile_rows = tile_rows_for(rows);
    layout.tiles.resize((rows + layout.tile_rows - 1) / layout.tile_rows);
    std::vector<std::size_t> largest(layout.tiles.size());
    parallel_for(layout.tiles.size(), 1, threads, [&](std::size_t begin, std::size_t end) {
        for (std::size_t t = begin; t < end; ++t) {
            const std::size_t first_row = t * layout.tile_rows;
            TileWriter writer(source, entries, block_width, first_row,
                              std::min(layout.tile_rows, rows - first_row));
            PanelTile& tile = layout.tiles[t];
            tile.block_starts = {0};
            for (std::size_t b = 0; b < layout.blocks(cols); ++b) {
                writer.add_block(b);
                tile.block_starts.push_back(static_cast<std::uint32_t>(writer.stream().size()));
            }
            tile.stream =
                support::AlignedBuffer<std::uint16_t>(writer.stream().size(), support::Fill::none);
            std::copy(writer.stream().begin(), writer.stream().end(), tile.stream.data());
            largest[t] = writer.largest_count();
        }
    });
    layout.largest_count = *std::max_element(largest.begin(), largest.end());
    return layout;
}

}  // namespace

Panels make_panels(const RowReader& source, std::uint32_t rows, std::uint32_t cols,
                   std::size_t nonzeros, const PanelEntries& entries, int threads) {
    const std::size_t width =
        entries.block_width != 0 ? entries.block_width : width_for(rows, cols, nonzeros);
    Panels layout = make_panels_of(source, rows, cols, entries, width, threads);
    // A row that is fuller than most would have the whole matrix miss `high`.
    if (entries.block_width == 0 && !meets_high(chain_of(layout.largest_count))) {
        layout = make_panels_of(source, rows, cols, entries, least_block_width, threads);
    }
    return layout;
}

}  // namespace tersor::spmm
