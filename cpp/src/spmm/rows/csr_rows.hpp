// Rows of a matrix in its canonical form, a range of them at a time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "spmm/rows/entry_source.hpp"
#include "spmm/rows/kernels.hpp"
#include "spmm/rows/row_source.hpp"
#include "support/prefetch.hpp"

namespace tersor::spmm {

/// The rows of entries that nobody has validated.
class CsrRows final : public RowSource {
public:
    /// `values` is the size of the codebook.
    CsrRows(const CsrOutline& outline, EntrySource& source, std::size_t values, Isa isa);

    /// Whether the rows' lengths fit the entries; if not, nothing else may be asked for.
    [[nodiscard]] bool good() const noexcept { return good_; }
    [[nodiscard]] std::uint32_t cols() const noexcept override { return outline_.cols; }
    [[nodiscard]] std::size_t nonzeros() const noexcept override { return outline_.nonzeros; }
    [[nodiscard]] std::size_t entries_before(std::size_t row) const noexcept override {
        return starts_[row];
    }

    [[nodiscard]] bool load(std::size_t begin, std::size_t end, int threads) override;
    /// Makes all rows ready at once, and looks at each. A flat matrix needs that before anything
    /// else: only the entries before it tell where a row begins.
    [[nodiscard]] bool load_all(int threads);

    [[nodiscard]] bool statistics(std::size_t row, RowStatistics& statistics,
                                  std::span<std::uint32_t> counts) const noexcept override {
        const std::size_t size = row_size(row);
        kernels_.count_codes(codes(row), size, counts.size(), counts.data());
        const bool good = kernels_.row_statistics(gaps(row), codes(row), size, column_before(row),
                                                  rules_, statistics);
        return good || outline_.flat;
    }

    std::size_t read(std::size_t row, Entry* entries) const noexcept override {
        return kernels_.decode_entries(gaps(row), codes(row), row_size(row), column_before(row),
                                       entries);
    }

    void prefetch(std::size_t row) const noexcept override {
        support::prefetch(gaps(row), row_size(row));
        support::prefetch(codes(row), row_size(row));
    }

    /// Calls `visit(column, code)` for each entry of a row, of any number of columns.
    template <class Visit>
    void for_each_entry(std::size_t row, const Visit& visit) const {
        std::uint32_t column = column_before(row);
        for (std::size_t i = 0; i < row_size(row); ++i) {
            column += gaps(row)[i];
            if (codes(row)[i] != 0) visit(column, codes(row)[i]);
            ++column;
        }
    }

private:
    /// Where the rows of a flat matrix begin.
    void find_rows();
    [[nodiscard]] std::size_t row_size(std::size_t row) const noexcept {
        return starts_[row + 1] - starts_[row];
    }
    [[nodiscard]] const std::uint8_t* codes(std::size_t row) const noexcept {
        return loaded_.codes.data() + (starts_[row] - first_loaded_);
    }
    [[nodiscard]] const std::uint8_t* gaps(std::size_t row) const noexcept {
        return loaded_.gaps.data() + (starts_[row] - first_loaded_);
    }
    [[nodiscard]] std::uint32_t column_before(std::size_t row) const noexcept {
        return outline_.flat ? offsets_[row] : 0;
    }

    const CsrOutline& outline_;
    EntrySource& source_;
    const rows::Kernels& kernels_;
    RowRules rules_;
    bool good_ = false;
    bool all_loaded_ = false;
    Entries loaded_;
    std::size_t first_loaded_ = 0;
    std::vector<std::size_t> starts_;     // [rows + 1], in entries
    std::vector<std::uint32_t> offsets_;  // flat: the column before a row's first gap, modulo 2^32
};

}  // namespace tersor::spmm
