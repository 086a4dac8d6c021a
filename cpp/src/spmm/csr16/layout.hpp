// The packed layout csr16: compressed sparse rows inside blocks of 65,536 columns, so that a column
// takes 16 bits. Blocks without non-zeros are left out. 3 bytes per non-zero, or 6 where weights
// have no codebook.
//
//   block        columns 0 to 65535       columns 131072 to 196607    (in order; none is empty)
//   row_starts   0       3    4           rows + 1 numbers of 64 bits: entries before each row
//   columns      5 9 17 | 2  | ...        16 bits each, from the block's first column on
//   codes        3 1 2  | 1  | ...        8 bits each; or values, fp32, without a codebook
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "support/aligned_buffer.hpp"

namespace tersor::spmm {

inline constexpr std::uint64_t block_columns = 65536;

/// One block as the kernels see it. Entry i of row r: row_starts[r] <= i < row_starts[r + 1].
struct BlockView {
    std::size_t first_column;
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
    std::size_t first_column = 0;  // a multiple of block_columns
    support::AlignedBuffer<std::uint16_t> columns;
    support::AlignedBuffer<std::uint8_t> codes;
    support::AlignedBuffer<float> values;  // plain weights
    support::AlignedBuffer<std::uint64_t> row_starts;
};

struct Csr16 {
    std::vector<Block> blocks;  // in the order of their columns

    [[nodiscard]] std::size_t nbytes() const noexcept {
        std::size_t bytes = 0;
        for (const Block& b : blocks) {
            bytes +=
                b.columns.nbytes() + b.codes.nbytes() + b.values.nbytes() + b.row_starts.nbytes();
        }
        return bytes;
    }
};

/// Lays entries out that are looked at twice: all are counted, then all are placed, those of a row
/// in the order of their columns.
class Csr16Builder {
public:
    Csr16Builder(std::uint32_t rows, std::uint32_t cols);

    void count(std::size_t row, std::size_t column) {
        ++blocks()[find_or_add(column / block_columns)].row_starts[row + 1];
    }
    /// Between the two.
    void allocate(bool shared);

    /// Where an entry's code or value belongs; its column is there.
    struct Place {
        Block& block;
        std::size_t at;
    };
    [[nodiscard]] Place place(std::size_t row, std::size_t column) noexcept {
        Block& block = blocks()[index_[column / block_columns]];
        const auto at = static_cast<std::size_t>(block.row_starts[row]++);
        block.columns[at] = static_cast<std::uint16_t>(column % block_columns);
        return {block, at};
    }
    [[nodiscard]] Csr16 finish() &&;

private:
    static constexpr std::uint32_t absent = UINT32_MAX;

    [[nodiscard]] std::vector<Block>& blocks() noexcept { return layout_.blocks; }
    [[nodiscard]] std::size_t find_or_add(std::size_t block) {
        return index_[block] != absent ? index_[block] : add(block);
    }
    std::size_t add(std::size_t block);

    std::size_t rows_;
    Csr16 layout_;
    std::vector<std::uint32_t> index_;  // by columns / block_columns: the place in `blocks`
};

}  // namespace tersor::spmm
