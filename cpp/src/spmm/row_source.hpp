// Rows of a matrix as entries, from either representation.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "spmm/kernels.hpp"
#include "spmm/rows16.hpp"
#include "support/prefetch.hpp"
#include "tersor/csr.hpp"

namespace tersor::spmm {

/// The rows of a validated RelativeCsr, of at most max_sliding_columns columns unless said
/// otherwise.
class CsrRows {
public:
    CsrRows(const RelativeCsr& csr, Isa isa);

    [[nodiscard]] std::uint32_t cols() const noexcept { return csr_.cols; }

    [[nodiscard]] RowFacts facts(std::size_t row) const noexcept {
        const std::size_t begin = starts_[row];
        return kernels_.survey_row(csr_.gaps.data() + begin, csr_.codes.data() + begin,
                                   starts_[row + 1] - begin, column_before(row), csr_.cols);
    }

    /// Adds up in `counts` [values] how often each code but 0 occurs.
    void count_codes(std::size_t row, std::span<std::uint32_t> counts) const noexcept {
        kernels_.count_codes(csr_.codes.data() + starts_[row], starts_[row + 1] - starts_[row],
                             counts.size(), counts.data());
    }

    /// Writes the entries and returns their number; there must be room for `read_slack` more.
    std::size_t read(std::size_t row, Entry* entries) const noexcept {
        const std::size_t begin = starts_[row];
        return kernels_.decode_entries(csr_.gaps.data() + begin, csr_.codes.data() + begin,
                                       starts_[row + 1] - begin, column_before(row), entries);
    }

    /// Rows are read in an order that the processor cannot foresee.
    void prefetch(std::size_t row) const noexcept {
        const std::size_t size = starts_[row + 1] - starts_[row];
        support::prefetch(csr_.gaps.data() + starts_[row], size);
        support::prefetch(csr_.codes.data() + starts_[row], size);
    }

    /// Calls `visit(column, code)` for each entry of a row, of any number of columns.
    template <class Visit>
    void for_each_entry(std::size_t row, const Visit& visit) const {
        std::uint32_t column = column_before(row);
        for (std::size_t i = starts_[row]; i < starts_[row + 1]; ++i) {
            column += csr_.gaps[i];
            if (csr_.codes[i] != 0) visit(column, csr_.codes[i]);
            ++column;
        }
    }

private:
    [[nodiscard]] std::uint32_t column_before(std::size_t row) const noexcept {
        return csr_.flat ? offsets_[row] : 0;
    }

    const RelativeCsr& csr_;
    const Kernels& kernels_;
    std::vector<std::size_t> starts_;     // [rows + 1], in entries
    std::vector<std::uint32_t> offsets_;  // flat: the column before a row's first gap, modulo 2^32
};

/// The rows of a packed matrix, of at most max_sliding_columns columns.
class Rows16Rows {
public:
    Rows16Rows(const Rows16& layout, std::uint32_t cols, Isa isa) noexcept
        : layout_(layout), cols_(cols), kernels_(kernels(isa)) {}

    [[nodiscard]] std::uint32_t cols() const noexcept { return cols_; }
    [[nodiscard]] std::size_t nonzeros(std::size_t row) const noexcept;
    [[nodiscard]] RowFacts facts(std::size_t row) const noexcept;
    void count_codes(std::size_t row, std::span<std::uint32_t> counts) const noexcept;
    std::size_t read(std::size_t row, Entry* entries) const noexcept;
    void prefetch(std::size_t row) const noexcept;

private:
    const Rows16& layout_;
    std::uint32_t cols_;
    const Kernels& kernels_;
};

}  // namespace tersor::spmm
