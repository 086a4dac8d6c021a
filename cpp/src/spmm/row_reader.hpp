// The rows of a packed matrix, of at most max_sliding_columns columns, from whichever layout is
// there: what a second layout is made from.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "spmm/filling.hpp"
#include "spmm/rows16.hpp"
#include "spmm/sliding.hpp"

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

/// Of the layout rows16, with codes.
class Rows16Reader final : public RowReader {
public:
    explicit Rows16Reader(const Rows16& layout) noexcept : layout_(layout) {}
    [[nodiscard]] std::size_t room(std::size_t row) const noexcept override;
    std::size_t read(std::size_t row, Entry* entries) const noexcept override;

private:
    const Rows16& layout_;
};

/// Of the sliding layout.
class SlidingReader final : public RowReader {
public:
    explicit SlidingReader(const Sliding& layout);
    [[nodiscard]] std::size_t room(std::size_t row) const noexcept override;
    std::size_t read(std::size_t row, Entry* entries) const noexcept override;

private:
    const Sliding& layout_;
    std::vector<std::uint32_t> places_;  // of the rows, in the order of the slices
};

}  // namespace tersor::spmm
