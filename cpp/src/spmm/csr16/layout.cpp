#include "spmm/csr16/layout.hpp"

#include <cstring>
#include <utility>

namespace tersor::spmm {

Csr16Builder::Csr16Builder(std::uint32_t rows, std::uint32_t cols)
    : rows_(rows),
      index_(static_cast<std::size_t>((cols + block_columns - 1) / block_columns), absent) {}

std::size_t Csr16Builder::add(std::size_t block) {
    Block added;
    added.first_column = block * static_cast<std::size_t>(block_columns);
    added.row_starts = support::AlignedBuffer<std::uint64_t>(rows_ + 1);
    blocks().push_back(std::move(added));
    index_[block] = static_cast<std::uint32_t>(blocks().size() - 1);
    return index_[block];
}

void Csr16Builder::allocate(bool shared) {
    std::vector<Block> in_order;
    in_order.reserve(blocks().size());
    for (std::uint32_t& place : index_) {
        if (place == absent) continue;
        in_order.push_back(std::move(blocks()[place]));
        place = static_cast<std::uint32_t>(in_order.size() - 1);
    }
    blocks() = std::move(in_order);
    for (Block& block : blocks()) {
        for (std::size_t r = 0; r < rows_; ++r) block.row_starts[r + 1] += block.row_starts[r];
        const auto size = static_cast<std::size_t>(block.row_starts[rows_]);
        block.columns = support::AlignedBuffer<std::uint16_t>(size);
        if (shared) {
            block.codes = support::AlignedBuffer<std::uint8_t>(size);
        } else {
            block.values = support::AlignedBuffer<float>(size);
        }
    }
}

Csr16 Csr16Builder::finish() && {
    for (Block& block : blocks()) {
        // Placing moved each row's start to its end, which is where the next one starts.
        std::uint64_t* const starts = block.row_starts.data();
        std::memmove(starts + 1, starts, rows_ * sizeof *starts);
        starts[0] = 0;
    }
    return std::move(layout_);
}

}  // namespace tersor::spmm
