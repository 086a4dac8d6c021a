#include "spmm/sell/layout.hpp"

namespace tersor::spmm {

std::size_t Sell::nbytes() const noexcept {
    return entries.nbytes() + advances.nbytes() + sizeof(limbs) +
           4 * (slice_starts.size() + row_order.size() + sums.size()) + outliers.nbytes();
}

Csr16 make_csr16(const Sell& source, std::uint32_t rows, std::uint32_t cols) {
    Csr16Builder builder(rows, cols);
    for_each_entry(source, [&](std::uint32_t row, std::size_t column, std::uint8_t) {
        builder.count(row, column);
    });
    builder.allocate(true);
    for_each_entry(source, [&](std::uint32_t row, std::size_t column, std::uint8_t code) {
        const auto [block, at] = builder.place(row, column);
        block.codes[at] = code;
    });
    return std::move(builder).finish();
}

}  // namespace tersor::spmm
