// The rows that a SELL layout is made from: of the canonical form, which nobody has validated, or
// of a packed matrix.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "spmm/rows/entries.hpp"

namespace tersor::spmm {

/// Any number of threads may ask for rows that are loaded.
class RowSource {
public:
    virtual ~RowSource() = default;

    [[nodiscard]] virtual std::uint32_t cols() const noexcept = 0;
    [[nodiscard]] virtual std::size_t nonzeros() const noexcept = 0;
    /// About how much there is to read before a row.
    [[nodiscard]] virtual std::size_t entries_before(std::size_t row) const noexcept = 0;

    /// Makes the rows [begin, end) ready, which follow those of the last call. False where the
    /// matrix is malformed, as far as that can be told without looking at each row.
    [[nodiscard]] virtual bool load(std::size_t begin, std::size_t end, int threads) = 0;

    /// How a row's non-zeros lie; in `counts` [values] how often each code but 0 occurs. False
    /// where the row is malformed.
    [[nodiscard]] virtual bool statistics(std::size_t row, RowStatistics& statistics,
                                          std::span<std::uint32_t> counts) const noexcept = 0;

    /// Writes the entries and returns their number; there must be room for `read_slack` more.
    virtual std::size_t read(std::size_t row, Entry* entries) const noexcept = 0;

    /// Rows are read in an order that the processor cannot foresee.
    virtual void prefetch(std::size_t row) const noexcept = 0;
};

}  // namespace tersor::spmm
