#include "spmm/csr16/pack.hpp"

#include <utility>
#include <vector>

namespace tersor::spmm {
namespace {

/// Lays the rows out; `store(block, place, code)` is told of each non-zero, in order.
template <class Store>
Csr16 lay_out(const CsrRows& source, std::uint32_t rows, bool shared, const Store& store) {
    Csr16Builder builder(rows, source.cols());
    for (std::size_t r = 0; r < rows; ++r) {
        source.for_each_entry(
            r, [&](std::uint32_t column, std::uint8_t) { builder.count(r, column); });
    }
    builder.allocate(shared);
    for (std::size_t r = 0; r < rows; ++r) {
        source.for_each_entry(r, [&](std::uint32_t column, std::uint8_t code) {
            const Csr16Builder::Place place = builder.place(r, column);
            store(place.block, place.at, code);
        });
    }
    return std::move(builder).finish();
}

/// The same for codes and a single block, which most matrices are: decoded by a kernel.
Csr16 lay_out_block(const CsrRows& source, std::uint32_t rows) {
    Csr16 layout;
    if (source.nonzeros() == 0) return layout;
    Block& block = layout.blocks.emplace_back();
    block.row_starts = support::AlignedBuffer<std::uint64_t>(std::size_t{rows} + 1);
    block.columns = support::AlignedBuffer<std::uint16_t>(source.nonzeros());
    block.codes = support::AlignedBuffer<std::uint8_t>(source.nonzeros());
    std::vector<Entry> entries;
    std::size_t at = 0;
    for (std::size_t r = 0; r < rows; ++r) {
        const std::size_t room = source.entries_before(r + 1) - source.entries_before(r);
        if (entries.size() < room + read_slack) entries.resize(2 * (room + read_slack));
        const std::size_t size = source.read(r, entries.data());
        for (std::size_t i = 0; i < size; ++i) {
            block.columns[at + i] = static_cast<std::uint16_t>(entries[i] >> 8);
        }
        for (std::size_t i = 0; i < size; ++i) {
            block.codes[at + i] = static_cast<std::uint8_t>(entries[i]);
        }
        at += size;
        block.row_starts[r + 1] = at;
    }
    return layout;
}

}  // namespace

Csr16 pack_csr16(const CsrRows& source, std::uint32_t rows) {
    if (source.cols() > 0 && source.cols() <= block_columns) return lay_out_block(source, rows);
    return lay_out(source, rows, true,
                   [](Block& block, std::size_t to, std::uint8_t code) { block.codes[to] = code; });
}

Csr16 pack_csr16(const CsrRows& source, std::uint32_t rows, const float* values) {
    return lay_out(source, rows, false, [&](Block& block, std::size_t to, std::uint8_t) {
        block.values[to] = *values++;
    });
}

}  // namespace tersor::spmm
