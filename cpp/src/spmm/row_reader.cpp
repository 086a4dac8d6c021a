#include "spmm/row_reader.hpp"

namespace tersor::spmm {

std::size_t Rows16Reader::room(std::size_t row) const noexcept {
    std::size_t entries = 0;
    for (const Block& block : layout_.blocks) {
        entries += static_cast<std::size_t>(block.row_starts[row + 1] - block.row_starts[row]);
    }
    return entries;
}

std::size_t Rows16Reader::read(std::size_t row, Entry* entries) const noexcept {
    Entry* to = entries;
    for (const Block& block : layout_.blocks) {
        const auto first = static_cast<std::uint32_t>(block.first_column);
        for (std::uint64_t i = block.row_starts[row]; i < block.row_starts[row + 1]; ++i) {
            *to++ = (first + block.columns[i]) << 8 | block.codes[i];
        }
    }
    return static_cast<std::size_t>(to - entries);
}

SlidingReader::SlidingReader(const Sliding& layout)
    : layout_(layout), places_(layout.row_order.size()) {
    for (std::size_t place = 0; place < places_.size(); ++place) {
        places_[layout.row_order[place]] = static_cast<std::uint32_t>(place);
    }
}

std::size_t SlidingReader::room(std::size_t row) const noexcept {
    const std::size_t slice = places_[row] / slice_rows;
    const std::size_t pairs = layout_.slice_starts[slice + 1] - layout_.slice_starts[slice];
    return pairs * 2 * row_slots;
}

std::size_t SlidingReader::read(std::size_t row, Entry* entries) const noexcept {
    Entry* to = entries;
    for_each_entry_of(layout_, places_[row], [&](std::size_t column, std::uint8_t code) {
        *to++ = static_cast<Entry>(column << 8 | code);
    });
    return static_cast<std::size_t>(to - entries);
}

}  // namespace tersor::spmm
