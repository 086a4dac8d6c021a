#include "spmm/sell/rows.hpp"

namespace tersor::spmm {

SellReader::SellReader(const Sell& layout) : layout_(layout), places_(layout.row_order.size()) {
    for (std::size_t place = 0; place < places_.size(); ++place) {
        places_[layout.row_order[place]] = static_cast<std::uint32_t>(place);
    }
}

std::size_t SellReader::room(std::size_t row) const noexcept {
    const std::size_t slice = places_[row] / slice_rows;
    const std::size_t pairs = layout_.slice_starts[slice + 1] - layout_.slice_starts[slice];
    return pairs * 2 * row_slots;
}

std::size_t SellReader::read(std::size_t row, Entry* entries) const noexcept {
    Entry* to = entries;
    for_each_entry_of(layout_, places_[row], [&](std::size_t column, std::uint8_t code) {
        *to++ = static_cast<Entry>(column << 8 | code);
    });
    return static_cast<std::size_t>(to - entries);
}

}  // namespace tersor::spmm
