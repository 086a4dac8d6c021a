// Rows of a matrix as absolute columns and codes, from either representation.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "spmm/kernels.hpp"
#include "spmm/rows16.hpp"
#include "tersor/csr.hpp"

namespace tersor::spmm {

/// What the order of the rows goes by.
struct RowFacts {
    std::uint32_t nonzeros = 0;
    std::uint32_t middle_column = 0;  // about where half of the entries are passed
};

/// The rows of a validated RelativeCsr.
class CsrRows {
public:
    CsrRows(const RelativeCsr& csr, Isa isa);

    [[nodiscard]] RowFacts facts(std::size_t row) const noexcept;

    /// Writes columns and codes of the non-zeros and returns their number; there must be room for
    /// `read_slack` more.
    std::size_t read(std::size_t row, std::uint32_t* columns, std::uint8_t* codes) const noexcept {
        const std::size_t begin = starts_[row];
        return decode_(csr_.gaps.data() + begin, csr_.codes.data() + begin,
                       starts_[row + 1] - begin, csr_.flat ? offsets_[row] : 0, columns, codes);
    }

private:
    const RelativeCsr& csr_;
    DecodeEntries decode_;
    std::vector<std::size_t> starts_;     // [rows + 1], in entries
    std::vector<std::uint32_t> offsets_;  // flat: the column before a row's first gap, modulo 2^32
};

/// The rows of a packed matrix.
class Rows16Rows {
public:
    explicit Rows16Rows(const Rows16& layout) noexcept : layout_(layout) {}

    [[nodiscard]] RowFacts facts(std::size_t row) const noexcept;
    std::size_t read(std::size_t row, std::uint32_t* columns, std::uint8_t* codes) const noexcept;

private:
    const Rows16& layout_;
};

}  // namespace tersor::spmm
