#include "spmm/sliding.hpp"

namespace tersor::spmm {

std::size_t Sliding::nbytes() const noexcept {
    return entries.nbytes() + advances.nbytes() + sizeof(digits) +
           4 * (slice_starts.size() + row_order.size() + sums.size());
}

Rows16 make_rows16(const Sliding& source, std::uint32_t rows, std::uint32_t cols) {
    Rows16 layout = empty_rows16(rows, cols);
    for_each_entry(source, [&](std::uint32_t row, std::size_t column, std::uint8_t) {
        ++layout.blocks[column / block_columns].row_starts[std::size_t{row} + 1];
    });
    allocate_entries(layout, rows, true);
    std::vector<std::uint64_t> next;  // [block][row]
    for (const Block& block : layout.blocks) {
        next.insert(next.end(), block.row_starts.data(), block.row_starts.data() + rows);
    }
    for_each_entry(source, [&](std::uint32_t row, std::size_t column, std::uint8_t code) {
        const std::size_t b = column / block_columns;
        const std::uint64_t to = next[b * rows + row]++;
        layout.blocks[b].columns[to] = static_cast<std::uint16_t>(column % block_columns);
        layout.blocks[b].codes[to] = code;
    });
    return layout;
}

}  // namespace tersor::spmm
