#include "spmm/rows16.hpp"

namespace tersor::spmm {

Rows16 empty_rows16(std::uint32_t rows, std::uint32_t cols) {
    Rows16 layout;
    layout.blocks.resize(static_cast<std::size_t>((cols + block_columns - 1) / block_columns));
    for (Block& block : layout.blocks) {
        block.row_starts = support::AlignedBuffer<std::uint64_t>(std::size_t{rows} + 1);
    }
    return layout;
}

void allocate_entries(Rows16& layout, std::uint32_t rows, bool shared) {
    for (Block& block : layout.blocks) {
        for (std::size_t r = 0; r < rows; ++r) block.row_starts[r + 1] += block.row_starts[r];
        const auto size = static_cast<std::size_t>(block.row_starts[rows]);
        block.columns = support::AlignedBuffer<std::uint16_t>(size);
        if (shared) {
            block.codes = support::AlignedBuffer<std::uint8_t>(size);
        } else {
            block.values = support::AlignedBuffer<float>(size);
        }
    }
}

}  // namespace tersor::spmm
