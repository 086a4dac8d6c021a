// Portable kernels that fill the layout sell.
#include <algorithm>

#include "spmm/sell/kernels.hpp"

namespace tersor::spmm::sell {
namespace {

void weigh_counts(const std::uint32_t* counts, std::size_t values, const CodeTerms* terms,
                  CodeTerms& totals) noexcept {
    totals = {};
    for (std::size_t c = 1; c < values; ++c) {
        const double count = counts[c];
        for (std::size_t i = 0; i < totals.size(); ++i) totals[i] += count * terms[c][i];
    }
}

Moments moments_of(const RowStatistics* statistics, const std::uint32_t* rows,
                   std::size_t size) noexcept {
    const RowStatistics& origin = statistics[rows[0]];  // keeps the squares small
    Moments moments{{}, {}, origin.passed, origin.passed};
    for (std::size_t i = 0; i < size; ++i) {
        for (std::size_t m = 0; m < RowStatistics::marks; ++m) {
            const float passed = statistics[rows[i]].passed[m];
            const float more = passed - origin.passed[m];
            moments.sums[m] += more;
            moments.squares[m] += more * more;
            moments.least[m] = std::min(moments.least[m], passed);
            moments.most[m] = std::max(moments.most[m], passed);
        }
    }
    return moments;
}

void fill_slice(SliceCursor& slice, const SellShape& shape, bool nibbles) noexcept {
    for (; slice.room > 0; --slice.room) {
        std::uint8_t* codes = slice.pairs + 2 * step_slots;
        for (std::size_t step = 0; step < 2; ++step) {
            Entry left = past_end;
            for (const std::uint32_t at : slice.next) left = std::min(left, slice.entries[at]);
            if (left == past_end && step == 0) return;
            const std::uint32_t wanted =
                left == past_end ? slice.window : (left >> 8) / shape.window_grain;
            const std::uint32_t advance = std::min(wanted - slice.window, max_advance);
            slice.window += advance;
            slice.advances[step] = static_cast<std::uint8_t>(advance);
            const Entry first = slice.window * shape.window_grain << 8;
            for (std::size_t slot = 0; slot < step_slots; ++slot) {
                std::uint32_t& at = slice.next[slot / row_slots];
                const Entry place = slice.entries[at] - first;
                const bool inside = place < shape.window_columns << 8;
                slice.pairs[step * step_slots + slot] =
                    inside ? static_cast<std::uint8_t>(place >> 8) : std::uint8_t{0};
                const auto code = static_cast<std::uint8_t>(inside ? place : 0);
                if (nibbles && step == 1) {
                    codes[slot] = static_cast<std::uint8_t>(codes[slot] | code << 4);
                } else {
                    codes[step * step_slots + slot] = code;
                }
                at += inside ? 1U : 0U;
            }
        }
        slice.pairs += pair_bytes(nibbles);
        slice.advances += 2;
    }
}

void fill_pairs(std::span<SliceCursor> slices, const SellShape& shape, bool nibbles) noexcept {
    for (SliceCursor& slice : slices) fill_slice(slice, shape, nibbles);
}

}  // namespace

void install(dispatch::Level<Isa::scalar>, Kernels& kernels) noexcept {
    kernels.weigh_counts = weigh_counts;
    kernels.moments_of = moments_of;
    kernels.fill_pairs = fill_pairs;
}

}  // namespace tersor::spmm::sell
