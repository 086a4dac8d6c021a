#include "spmm/csr16/rows.hpp"

#include <algorithm>
#include <array>

#include "support/prefetch.hpp"

namespace tersor::spmm {

std::size_t Csr16Reader::room(std::size_t row) const noexcept {
    std::size_t entries = 0;
    for (const Block& block : layout_.blocks) {
        entries += static_cast<std::size_t>(block.row_starts[row + 1] - block.row_starts[row]);
    }
    return entries;
}

std::size_t Csr16Reader::read(std::size_t row, Entry* entries) const noexcept {
    Entry* to = entries;
    for (const Block& block : layout_.blocks) {
        const auto first = static_cast<std::uint32_t>(block.first_column);
        for (std::uint64_t i = block.row_starts[row]; i < block.row_starts[row + 1]; ++i) {
            *to++ = (first + block.columns[i]) << 8 | block.codes[i];
        }
    }
    return static_cast<std::size_t>(to - entries);
}

Csr16Rows::Csr16Rows(const Csr16& layout, std::uint32_t cols, Isa isa) noexcept
    : layout_(layout), cols_(cols), kernels_(rows::kernels(isa)) {
    for (const Block& block : layout.blocks) nonzeros_ += block.columns.size();
}

std::size_t Csr16Rows::entries_before(std::size_t row) const noexcept {
    std::size_t entries = 0;
    for (const Block& block : layout_.blocks) {
        entries += static_cast<std::size_t>(block.row_starts[row]);
    }
    return entries;
}

bool Csr16Rows::statistics(std::size_t row, RowStatistics& statistics,
                           std::span<std::uint32_t> counts) const noexcept {
    count_codes(row, counts);
    std::size_t passed = 0;
    std::size_t mark = 0;
    for (const Block& block : layout_.blocks) {
        const std::uint16_t* begin = block.columns.data() + block.row_starts[row];
        const std::uint16_t* end = block.columns.data() + block.row_starts[row + 1];
        const std::uint64_t first = block.first_column;
        for (; mark < RowStatistics::marks; ++mark) {
            const std::uint64_t column = std::max<std::uint64_t>(mark_column(mark, cols_), first);
            if (column - first > block_columns) break;
            const std::uint16_t* at = std::lower_bound(begin, end, column - first);
            statistics.passed[mark] =
                static_cast<float>(passed + static_cast<std::size_t>(at - begin));
        }
        passed += static_cast<std::size_t>(end - begin);
    }
    for (; mark < RowStatistics::marks; ++mark)
        statistics.passed[mark] = static_cast<float>(passed);
    return true;
}

void Csr16Rows::count_codes(std::size_t row, std::span<std::uint32_t> counts) const noexcept {
    std::fill(counts.begin(), counts.end(), 0U);
    std::array<std::uint32_t, 256> in_block;
    for (const Block& block : layout_.blocks) {
        const std::uint64_t begin = block.row_starts[row];
        const auto size = static_cast<std::size_t>(block.row_starts[row + 1] - begin);
        kernels_.count_codes(block.codes.data() + begin, size, counts.size(), in_block.data());
        for (std::size_t c = 0; c < counts.size(); ++c) counts[c] += in_block[c];
    }
}

void Csr16Rows::prefetch(std::size_t row) const noexcept {
    for (const Block& block : layout_.blocks) {
        const std::uint64_t begin = block.row_starts[row];
        const auto size = static_cast<std::size_t>(block.row_starts[row + 1] - begin);
        support::prefetch(block.columns.data() + begin, size * sizeof(std::uint16_t));
        support::prefetch(block.codes.data() + begin, size);
    }
}

std::size_t Csr16Rows::read(std::size_t row, Entry* entries) const noexcept {
    return Csr16Reader(layout_).read(row, entries);
}

}  // namespace tersor::spmm
