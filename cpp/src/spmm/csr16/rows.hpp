// The rows of the layout csr16, for the making of others.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "spmm/csr16/layout.hpp"
#include "spmm/rows/kernels.hpp"
#include "spmm/rows/row_reader.hpp"
#include "spmm/rows/row_source.hpp"

namespace tersor::spmm {

/// Of a matrix with codes.
class Csr16Reader final : public RowReader {
public:
    explicit Csr16Reader(const Csr16& layout) noexcept : layout_(layout) {}
    [[nodiscard]] std::size_t room(std::size_t row) const noexcept override;
    std::size_t read(std::size_t row, Entry* entries) const noexcept override;

private:
    const Csr16& layout_;
};

/// The rows of a packed matrix, of at most max_sell_columns columns.
class Csr16Rows final : public RowSource {
public:
    Csr16Rows(const Csr16& layout, std::uint32_t cols, Isa isa) noexcept;

    [[nodiscard]] std::uint32_t cols() const noexcept override { return cols_; }
    [[nodiscard]] std::size_t nonzeros() const noexcept override { return nonzeros_; }
    [[nodiscard]] std::size_t entries_before(std::size_t row) const noexcept override;
    [[nodiscard]] bool load(std::size_t, std::size_t, int) override { return true; }
    [[nodiscard]] bool statistics(std::size_t row, RowStatistics& statistics,
                                  std::span<std::uint32_t> counts) const noexcept override;
    std::size_t read(std::size_t row, Entry* entries) const noexcept override;
    void prefetch(std::size_t row) const noexcept override;

private:
    void count_codes(std::size_t row, std::span<std::uint32_t> counts) const noexcept;

    const Csr16& layout_;
    std::uint32_t cols_;
    std::size_t nonzeros_ = 0;
    const rows::Kernels& kernels_;
};

}  // namespace tersor::spmm
