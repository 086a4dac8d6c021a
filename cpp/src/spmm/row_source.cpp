#include "spmm/row_source.hpp"

#include <algorithm>
#include <numeric>

namespace tersor::spmm {

CsrRows::CsrRows(const RelativeCsr& csr, Isa isa)
    : csr_(csr), decode_(kernels(isa).decode_entries), starts_(std::size_t{csr.rows} + 1, 0) {
    if (!csr.flat) {
        std::inclusive_scan(csr.row_lengths.begin(), csr.row_lengths.end(), starts_.begin() + 1,
                            std::plus<>(), std::size_t{0});
        return;
    }
    // A row begins with the first entry that lands in it or in a later row: fillers may straddle.
    offsets_.resize(csr.rows);
    std::size_t row = 0;
    std::uint64_t position = 0;
    for (std::size_t i = 0; i < csr.codes.size(); ++i) {
        const std::uint64_t before = position;
        position += csr.gaps[i];
        for (; row < csr.rows && row * csr.cols <= position; ++row) {
            starts_[row] = i;
            offsets_[row] = static_cast<std::uint32_t>(before - row * csr.cols);
        }
        ++position;
    }
    std::fill(starts_.begin() + static_cast<std::ptrdiff_t>(row), starts_.end(), csr.codes.size());
}

RowFacts CsrRows::facts(std::size_t row) const noexcept {
    const std::uint8_t* codes = csr_.codes.data() + starts_[row];
    const std::uint8_t* gaps = csr_.gaps.data() + starts_[row];
    const std::size_t entries = starts_[row + 1] - starts_[row];
    RowFacts facts;
    for (std::size_t i = 0; i < entries; ++i) facts.nonzeros += codes[i] != 0 ? 1U : 0U;
    for (std::size_t i = 0; i < entries / 2; ++i) facts.middle_column += gaps[i] + 1U;
    return facts;
}

RowFacts Rows16Rows::facts(std::size_t row) const noexcept {
    RowFacts facts;
    for (const Block& block : layout_.blocks) {
        facts.nonzeros +=
            static_cast<std::uint32_t>(block.row_starts[row + 1] - block.row_starts[row]);
    }
    std::uint64_t rest = facts.nonzeros / 2;
    for (std::size_t b = 0; b < layout_.blocks.size(); ++b) {
        const Block& block = layout_.blocks[b];
        const std::uint64_t size = block.row_starts[row + 1] - block.row_starts[row];
        if (rest < size) {
            facts.middle_column = static_cast<std::uint32_t>(
                b * block_columns + block.columns[block.row_starts[row] + rest]);
            break;
        }
        rest -= size;
    }
    return facts;
}

std::size_t Rows16Rows::read(std::size_t row, std::uint32_t* columns,
                             std::uint8_t* codes) const noexcept {
    std::size_t at = 0;
    for (std::size_t b = 0; b < layout_.blocks.size(); ++b) {
        const Block& block = layout_.blocks[b];
        const auto first = static_cast<std::uint32_t>(b * block_columns);
        for (std::uint64_t i = block.row_starts[row]; i < block.row_starts[row + 1]; ++i, ++at) {
            columns[at] = first + block.columns[i];
            codes[at] = block.codes[i];
        }
    }
    return at;
}

}  // namespace tersor::spmm
