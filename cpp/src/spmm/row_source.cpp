#include "spmm/row_source.hpp"

#include <algorithm>
#include <array>
#include <numeric>

namespace tersor::spmm {

CsrRows::CsrRows(const RelativeCsr& csr, Isa isa)
    : csr_(csr), kernels_(kernels(isa)), starts_(std::size_t{csr.rows} + 1, 0) {
    if (!csr.flat) {
        std::inclusive_scan(csr.row_lengths.begin(), csr.row_lengths.end(), starts_.begin() + 1,
                            std::plus<>(), std::size_t{0});
        return;
    }
    // A row begins with the first entry that lands in it or in a later row: fillers may straddle.
    offsets_.resize(csr.rows);
    std::size_t row = 0;
    std::uint64_t position = 0;
    constexpr std::size_t stride = 64;  // entries that are passed at once if no row begins there
    for (std::size_t i = 0; i < csr.codes.size();) {
        const std::size_t end = std::min(i + stride, csr.codes.size());
        std::uint32_t advance = 0;
        for (std::size_t k = i; k < end; ++k) advance += csr.gaps[k] + 1U;
        if (row * csr.cols >= position + advance) {
            position += advance;
            i = end;
            continue;
        }
        for (; i < end; ++i) {
            const std::uint64_t before = position;
            position += csr.gaps[i];
            for (; row < csr.rows && row * csr.cols <= position; ++row) {
                starts_[row] = i;
                offsets_[row] = static_cast<std::uint32_t>(before - row * csr.cols);
            }
            ++position;
        }
    }
    std::fill(starts_.begin() + static_cast<std::ptrdiff_t>(row), starts_.end(), csr.codes.size());
}

std::size_t Rows16Rows::nonzeros(std::size_t row) const noexcept {
    std::size_t nonzeros = 0;
    for (const Block& block : layout_.blocks) {
        nonzeros += static_cast<std::size_t>(block.row_starts[row + 1] - block.row_starts[row]);
    }
    return nonzeros;
}

RowFacts Rows16Rows::facts(std::size_t row) const noexcept {
    RowFacts facts;
    std::size_t passed = 0;
    std::size_t mark = 0;
    for (std::size_t b = 0; b < layout_.blocks.size(); ++b) {
        const Block& block = layout_.blocks[b];
        const std::uint16_t* begin = block.columns.data() + block.row_starts[row];
        const std::uint16_t* end = block.columns.data() + block.row_starts[row + 1];
        for (; mark < RowFacts::marks; ++mark) {
            const std::uint64_t column = mark_column(mark, cols_) - b * block_columns;
            if (column > block_columns) break;
            const std::uint16_t* at = std::lower_bound(begin, end, column);
            facts.passed[mark] = static_cast<float>(passed + static_cast<std::size_t>(at - begin));
        }
        passed += static_cast<std::size_t>(end - begin);
    }
    return facts;
}

void Rows16Rows::count_codes(std::size_t row, std::span<std::uint32_t> counts) const noexcept {
    std::fill(counts.begin(), counts.end(), 0U);
    std::array<std::uint32_t, 256> some;
    for (const Block& block : layout_.blocks) {
        const std::uint64_t begin = block.row_starts[row];
        const auto size = static_cast<std::size_t>(block.row_starts[row + 1] - begin);
        kernels_.count_codes(block.codes.data() + begin, size, counts.size(), some.data());
        for (std::size_t c = 0; c < counts.size(); ++c) counts[c] += some[c];
    }
}

void Rows16Rows::prefetch(std::size_t row) const noexcept {
    for (const Block& block : layout_.blocks) {
        const std::uint64_t begin = block.row_starts[row];
        const auto size = static_cast<std::size_t>(block.row_starts[row + 1] - begin);
        support::prefetch(block.columns.data() + begin, size * sizeof(std::uint16_t));
        support::prefetch(block.codes.data() + begin, size);
    }
}

std::size_t Rows16Rows::read(std::size_t row, Entry* entries) const noexcept {
    Entry* to = entries;
    for (std::size_t b = 0; b < layout_.blocks.size(); ++b) {
        const Block& block = layout_.blocks[b];
        const auto first = static_cast<std::uint32_t>(b * block_columns);
        for (std::uint64_t i = block.row_starts[row]; i < block.row_starts[row + 1]; ++i) {
            *to++ = (first + block.columns[i]) << 8 | block.codes[i];
        }
    }
    return static_cast<std::size_t>(to - entries);
}

}  // namespace tersor::spmm
