// The rows of the layout sell, for the making of others.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "spmm/rows/row_reader.hpp"
#include "spmm/sell/layout.hpp"

namespace tersor::spmm {

class SellReader final : public RowReader {
public:
    explicit SellReader(const Sell& layout);
    [[nodiscard]] std::size_t room(std::size_t row) const noexcept override;
    std::size_t read(std::size_t row, Entry* entries) const noexcept override;

private:
    const Sell& layout_;
    std::vector<std::uint32_t> places_;  // of the rows, in the order of the slices
};

}  // namespace tersor::spmm
