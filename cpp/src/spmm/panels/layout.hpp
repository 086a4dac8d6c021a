// The packed layout panels, for batches: tiles of rows, in each of them blocks of columns so narrow
// that their activations for a whole batch (a panel: lanes side by side) stay in the first cache.
// One multiply-add serves one entry and a register of vectors; nothing is gathered.
//
//   tile      256 to 1024 rows            stream of 16-bit numbers, block after block
//   block     64 to 256 columns           runs of rows with equally many entries in the block, so
//                                         that the processor can foresee where a row ends
//     run     [count][rows]               then each of its rows:
//     row     [number in the tile] [entry 0] ... [entry count - 1]
//     entry   column in the block * 256 + code, or + limb of the weight where products are of limbs
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "spmm/fixed_point.hpp"
#include "spmm/rows/row_reader.hpp"
#include "support/aligned_buffer.hpp"

namespace tersor::spmm {

/// Rows that pass over a block of columns one after the other: their sums for a batch stay in the
/// second cache, and the block's activations in the first.
inline constexpr std::size_t bundle_rows = 1024;

/// Rows of a tile, the least that a thread takes: half of a bundle at most, and a quarter of the
/// matrix, so that two threads and four have equal parts. Each begins its runs anew, of which the
/// processor foresees all but the end.
[[nodiscard]] constexpr std::size_t tile_rows_for(std::size_t rows) noexcept {
    constexpr std::size_t least = 64;
    const std::size_t tiles = 4 * ((rows + 2 * bundle_rows - 1) / (2 * bundle_rows));
    return std::max(least, (rows + tiles - 1) / tiles);
}

/// Columns of a block: as many as hold about 16 entries of a row, for every row costs a reading and
/// a writing of its sums, but no more than 8 bits can name and the first cache can hold.
inline constexpr std::size_t min_block_width = 128;
/// The same where the matrix is so dense that the chains of additions would be too long for
/// `high`.
inline constexpr std::size_t least_block_width = 64;
inline constexpr std::size_t max_block_width = 256;
inline constexpr std::size_t block_row_entries = 16;

/// Blocks whose sums are added up before they are added to the result: it keeps the chains of
/// additions short, and with them the rounding error.
inline constexpr std::size_t blocks_per_fold = 16;

/// Roundings to fp32 that the bound of `high` allows each product on its way.
inline constexpr auto most_roundings =
    static_cast<std::size_t>(error_limit(Precision::high) * 0x1p24);

/// Sums that the kernels keep for each row of a block.
inline constexpr std::size_t panel_chains = 2;
/// Entries of a row in a block up to which a kernel may keep one sum for it instead.
inline constexpr std::size_t one_chain_entries = 32;

/// The longest chain of additions of a row with `entries` entries in a block.
[[nodiscard]] constexpr std::size_t chain_of(std::size_t entries) noexcept {
    return std::max(std::min(entries, one_chain_entries),
                    (entries + panel_chains - 1) / panel_chains + panel_chains - 1);
}

/// Whether a chain in a block leaves the bound of `high` room for the additions around it, if the
/// totals are of double precision.
[[nodiscard]] constexpr bool meets_high(std::size_t chain) noexcept {
    return chain + blocks_per_fold + 1 <= most_roundings;
}
static_assert(meets_high(chain_of(least_block_width)));

/// What the entries of a layout hold.
struct PanelEntries {
    std::array<std::uint8_t, 256> byte_of_code;
    std::size_t block_width;  // 0: chosen by the density
    std::size_t multiple;     // of which the entries of a row in a block are, filled up by zeros
};

/// Codes, for fp32.
[[nodiscard]] PanelEntries code_entries();
/// Limbs of the weights, for groups of four products of bytes.
[[nodiscard]] PanelEntries limb_entries(const Limbs& limbs);

/// Vectors of a panel of limbs: one register of bytes.
inline constexpr std::size_t limb_lanes = 64;

/// Columns up to which 32-bit sums of products of limbs cannot overflow.
inline constexpr std::size_t max_limb_columns = 65536;

struct PanelTile {
    support::AlignedBuffer<std::uint16_t> stream;
    std::vector<std::uint32_t> block_starts;  // [blocks + 1]
};

struct Panels {
    std::vector<PanelTile> tiles;
    std::size_t tile_rows = 0;
    std::size_t block_width = 0;    // columns
    std::size_t largest_count = 0;  // entries of a row in a block

    [[nodiscard]] std::size_t nbytes() const noexcept;
    [[nodiscard]] std::size_t blocks(std::size_t cols) const noexcept {
        return (cols + block_width - 1) / block_width;
    }
    /// Whether only totals of double precision meet `high`, because many folds are added up.
    [[nodiscard]] bool wide_totals(std::size_t cols) const noexcept;
};

/// The lanes of the next panel when `vectors` vectors are left: 16 take two thirds of the time of
/// 32, and 32 a little more than half of that of 64.
[[nodiscard]] constexpr std::size_t lanes_for(std::size_t vectors) noexcept {
    return vectors > 48 ? 64 : vectors > 16 ? 32 : 16;
}

/// Columns up to which the chains of additions stay as short as the bound of `highest` needs.
inline constexpr std::size_t max_panels_columns = std::size_t{1} << 19;

/// `rows` and `cols` are not 0. Whatever the rows are like, fp32 products of the layout meet
/// `high`.
[[nodiscard]] Panels make_panels(const RowReader& source, std::uint32_t rows, std::uint32_t cols,
                                 std::size_t nonzeros, const PanelEntries& entries, int threads);

}  // namespace tersor::spmm
