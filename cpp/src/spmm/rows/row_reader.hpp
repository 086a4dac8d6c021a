// The rows of a packed matrix, of at most max_sell_columns columns, from whichever layout is
// there: what a second layout is made from.
#pragma once

#include <cstddef>

#include "spmm/rows/entries.hpp"

namespace tersor::spmm {

/// Any number of threads may read.
class RowReader {
public:
    virtual ~RowReader() = default;

    /// Entries that reading a row may write.
    [[nodiscard]] virtual std::size_t room(std::size_t row) const noexcept = 0;
    /// Writes the entries, in order, and returns their number.
    virtual std::size_t read(std::size_t row, Entry* entries) const noexcept = 0;
};

}  // namespace tersor::spmm
