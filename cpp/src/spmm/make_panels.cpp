// Filling the panel layout.
#include <algorithm>
#include <array>

#include "spmm/panels.hpp"
#include "spmm/row_source.hpp"
#include "tersor/parallel.hpp"

namespace tersor::spmm {
namespace {

/// The rows of a tile, and how far each has been taken.
class TileWriter {
public:
    TileWriter(const Rows16Rows& source, const PanelEntries& entries, std::size_t block_width,
               std::size_t first_row, std::size_t rows)
        : entries_(entries), width_(block_width), next_(rows), end_(rows) {
        std::size_t size = 0;
        for (std::size_t r = 0; r < rows; ++r) size += source.nonzeros(first_row + r);
        rows_.resize(size + read_slack);
        std::size_t at = 0;
        for (std::size_t r = 0; r < rows; ++r) {
            next_[r] = at;
            at += source.read(first_row + r, rows_.data() + at);
            end_[r] = at;
        }
        stream_.reserve(size + size / 4);
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

std::size_t width_for(std::size_t rows, std::size_t cols, std::size_t nonzeros) noexcept {
    const std::uint64_t weights = std::uint64_t{rows} * cols;
    if (2 * std::uint64_t{nonzeros} > weights) return dense_block_width;
    const std::uint64_t columns = block_row_entries * weights / std::max<std::size_t>(nonzeros, 1);
    return static_cast<std::size_t>(
        std::clamp<std::uint64_t>(columns / 32 * 32, min_block_width, max_block_width));
}

}  // namespace

PanelEntries code_entries() {
    PanelEntries entries{{}, 0, 1};
    for (std::size_t code = 0; code < 256; ++code) {
        entries.byte_of_code[code] = static_cast<std::uint8_t>(code);
    }
    return entries;
}

PanelEntries digit_entries(const Digits& digits) {
    PanelEntries entries{{}, max_block_width, 4};
    for (std::size_t code = 0; code < 256; ++code) {
        entries.byte_of_code[code] = static_cast<std::uint8_t>(digits.table[0][code]);
    }
    return entries;
}

std::size_t Panels::nbytes() const noexcept {
    std::size_t bytes = 0;
    for (const PanelTile& tile : tiles)
        bytes += tile.stream.nbytes() + 4 * tile.block_starts.size();
    return bytes;
}

std::size_t Panels::depth(std::size_t cols) const noexcept {
    const std::size_t blocks = (cols + block_width - 1) / block_width;
    const std::size_t folds = (blocks + blocks_per_fold - 1) / blocks_per_fold;
    const std::size_t chain =
        std::max(std::min(largest_count, one_chain_entries),
                 (largest_count + panel_chains - 1) / panel_chains + panel_chains - 1);
    return chain + std::min(blocks, blocks_per_fold) + folds;
}

Panels make_panels(const Rows16& rows16, std::uint32_t rows, std::uint32_t cols,
                   const PanelEntries& entries, int threads) {
    const Rows16Rows source(rows16, cols, Isa::scalar);
    std::size_t nonzeros = 0;
    for (std::size_t r = 0; r < rows; ++r) nonzeros += source.nonzeros(r);
    Panels layout;
    layout.block_width =
        entries.block_width != 0 ? entries.block_width : width_for(rows, cols, nonzeros);
    layout.tiles.resize((rows + tile_rows - 1) / tile_rows);
    std::vector<std::size_t> largest(layout.tiles.size());
    parallel_for(layout.tiles.size(), 1, threads, [&](std::size_t begin, std::size_t end) noexcept {
        for (std::size_t t = begin; t < end; ++t) {
            const std::size_t first_row = t * tile_rows;
            TileWriter writer(source, entries, layout.block_width, first_row,
                              std::min(tile_rows, rows - first_row));
            PanelTile& tile = layout.tiles[t];
            tile.block_starts = {0};
            for (std::size_t b = 0; b * layout.block_width < cols; ++b) {
                writer.add_block(b);
                tile.block_starts.push_back(static_cast<std::uint32_t>(writer.stream().size()));
            }
            tile.stream = support::AlignedBuffer<std::uint16_t>(writer.stream().size());
            std::copy(writer.stream().begin(), writer.stream().end(), tile.stream.data());
            largest[t] = writer.largest_count();
        }
    });
    for (const std::size_t count : largest) {
        layout.largest_count = std::max(layout.largest_count, count);
    }
    return layout;
}

}  // namespace tersor::spmm
