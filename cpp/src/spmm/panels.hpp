// The packed layout "panels", for batches: tiles of rows, in each of them blocks of columns so
// narrow that their activations for a whole batch (a panel: lanes side by side) stay in the first
// cache. One multiply-add serves one entry and a register of vectors; nothing is gathered.
//
// A block is a stream of 16-bit numbers: runs of rows that have equally many entries in it, so that
// the processor can foresee where a row ends.
//   run    count, rows, then for each row:
//   row    its number in the tile, then `count` entries
//   entry  column in the block * 256 + code, or + digit of the weight where products are of digits
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "spmm/fixed_point.hpp"
#include "spmm/rows16.hpp"
#include "support/aligned_buffer.hpp"

namespace tersor::spmm {

inline constexpr std::size_t tile_rows = 1024;  // their sums for a batch stay in the second cache

/// Columns of a block: as many as hold about 16 entries of a row, for every row costs a reading and
/// a writing of its sums, but no more than 8 bits can name and the first cache can hold.
inline constexpr std::size_t min_block_width = 128;
/// The same where more than half of the weights are kept: it halves the chains of additions, which
/// would be too long for `high`.
inline constexpr std::size_t dense_block_width = 64;
inline constexpr std::size_t max_block_width = 256;
inline constexpr std::size_t block_row_entries = 16;

/// Blocks whose sums are added up before they are added to the result: it keeps the chains of
/// additions short, and with them the rounding error.
inline constexpr std::size_t blocks_per_fold = 16;

/// Sums that the kernels keep for each row of a block.
inline constexpr std::size_t panel_chains = 2;
/// Entries of a row in a block up to which a kernel may keep one sum for it instead.
inline constexpr std::size_t one_chain_entries = 32;

/// What the entries of a layout hold.
struct PanelEntries {
    std::array<std::uint8_t, 256> byte_of_code;
    std::size_t block_width;  // 0: chosen by the density
    std::size_t multiple;     // of which the entries of a row in a block are, filled up by zeros
};

/// Codes, for fp32.
[[nodiscard]] PanelEntries code_entries();
/// Digits of the weights, for groups of four products of bytes.
[[nodiscard]] PanelEntries digit_entries(const Digits& digits);

/// Vectors of a panel of digits: one register of bytes.
inline constexpr std::size_t digit_lanes = 64;

/// Columns up to which 32-bit sums of products of digits cannot overflow.
inline constexpr std::size_t max_digit_columns = 65536;

struct PanelTile {
    support::AlignedBuffer<std::uint16_t> stream;
    std::vector<std::uint32_t> block_starts;  // [blocks + 1]
};

struct Panels {
    std::vector<PanelTile> tiles;
    std::size_t block_width = 0;    // columns
    std::size_t largest_count = 0;  // entries of a row in a block

    [[nodiscard]] std::size_t nbytes() const noexcept;
    /// The longest chain of additions, hence of roundings, that a weight passes through.
    [[nodiscard]] std::size_t depth(std::size_t cols) const noexcept;
};

/// The lanes of the next panel when so many vectors are left: 16 take two thirds of the time of 32,
/// and 32 a little more than half of that of 64.
[[nodiscard]] constexpr std::size_t lanes_for(std::size_t vectors) noexcept {
    return vectors > 48 ? 64 : vectors > 16 ? 32 : 16;
}

/// Columns up to which the chains of additions stay as short as the bound of `highest` needs.
inline constexpr std::size_t max_panels_columns = std::size_t{1} << 19;

[[nodiscard]] Panels make_panels(const Rows16& source, std::uint32_t rows, std::uint32_t cols,
                                 const PanelEntries& entries, int threads);

}  // namespace tersor::spmm
