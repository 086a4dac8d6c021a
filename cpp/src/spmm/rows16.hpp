// The packed layout "rows16": blocks of 65,536 columns; in each, rows of 16-bit columns beside
// 8-bit codes (3 bytes per non-zero), or beside fp32 values where the weights are not shared (6
// bytes).
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "support/aligned_buffer.hpp"

namespace tersor::spmm {

inline constexpr std::uint64_t block_columns = 65536;

/// One block as the kernels see it. Entry i of row r: row_starts[r] <= i < row_starts[r + 1].
struct BlockView {
    const std::uint16_t* columns;     // relative to the block
    const std::uint8_t* codes;        // nullptr where values are plain
    const float* values;              // [256] by code where codes are given, else by entry
    const std::uint64_t* row_starts;  // [rows + 1]

    /// The weight of entry i, where it is known whether codes are given.
    template <bool shared>
    [[nodiscard]] float weight(std::uint64_t i) const noexcept {
        if constexpr (shared) return values[codes[i]];
        return values[i];
    }
    [[nodiscard]] float weight(std::uint64_t i) const noexcept {
        return codes != nullptr ? weight<true>(i) : weight<false>(i);
    }
};

struct Block {
    support::AlignedBuffer<std::uint16_t> columns;
    support::AlignedBuffer<std::uint8_t> codes;
    support::AlignedBuffer<float> values;  // plain weights
    support::AlignedBuffer<std::uint64_t> row_starts;
};

struct Rows16 {
    std::vector<Block> blocks;

    [[nodiscard]] std::size_t nbytes() const noexcept {
        std::size_t bytes = 0;
        for (const Block& b : blocks) {
            bytes +=
                b.columns.nbytes() + b.codes.nbytes() + b.values.nbytes() + b.row_starts.nbytes();
        }
        return bytes;
    }
};

/// `cols` columns in blocks, row starts zeroed, entries not yet allocated.
[[nodiscard]] Rows16 empty_rows16(std::uint32_t rows, std::uint32_t cols);

/// Turns the counts in row_starts[1..rows] into starts and allocates the entries.
void allocate_entries(Rows16& layout, std::uint32_t rows, bool shared);

}  // namespace tersor::spmm
