// Slices of the SELL layout on their way from rows to pairs of steps.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "spmm/rows/row_source.hpp"
#include "spmm/sell/kernels.hpp"
#include "support/aligned_buffer.hpp"

namespace tersor::spmm {

/// Pairs of steps one behind the other.
class PairBuffer {
public:
    explicit PairBuffer(bool nibbles) noexcept : pair_size_(pair_bytes(nibbles)) {}

    void clear() noexcept { pairs_ = 0; }
    [[nodiscard]] std::size_t pairs() const noexcept { return pairs_; }

    void reserve(std::size_t pairs) {
        if (pairs <= room_) return;
        room_ = pairs;
        entries_.resize(room_ * pair_size_);
        advances_.resize(2 * room_);
    }
    /// Lets the cursor write at most `pairs` more, and `take` take in what it wrote.
    void give(SliceCursor& slice, std::size_t pairs) {
        if (pairs_ + pairs > room_) reserve((pairs_ + pairs) * 3 / 2);
        slice.pairs = entries_.data() + pairs_ * pair_size_;
        slice.advances = advances_.data() + 2 * pairs_;
        slice.room = pairs;
    }
    void take(const SliceCursor& slice) noexcept {
        pairs_ = static_cast<std::size_t>(slice.advances - advances_.data()) / 2;
    }

    void append(const PairBuffer& other) {
        SliceCursor end;
        give(end, other.pairs_);
        other.copy_to(end.pairs, end.advances);
        pairs_ += other.pairs_;
    }
    void copy_to(std::uint8_t* entries, std::uint8_t* advances) const noexcept {
        std::copy_n(entries_.data(), pairs_ * pair_size_, entries);
        std::copy_n(advances_.data(), 2 * pairs_, advances);
    }

private:
    std::size_t pair_size_;
    std::size_t pairs_ = 0;
    std::size_t room_ = 0;
    support::AlignedBuffer<std::uint8_t> entries_;
    support::AlignedBuffer<std::uint8_t> advances_;
};

/// The rows of a slice, and their number of non-zeros.
struct SliceRows {
    std::span<const std::uint32_t> rows;
    std::size_t nonzeros;
};

/// How early a row is fetched.
inline constexpr std::size_t rows_ahead = 2;

/// Some slices on their way into the layout.
class SliceWriter {
public:
    SliceWriter(const RowSource& source, const sell::Kernels& kernels, SellShape shape,
                bool nibbles)
        : source_(source),
          fill_(kernels.fill_pairs),
          shape_(shape),
          nibbles_(nibbles),
          output_(nibbles) {
        for (std::size_t i = 1; i < slices_together; ++i) beside_.emplace_back(nibbles);
    }

    void clear() noexcept { output_.clear(); }
    /// Room for the pairs that are expected.
    void reserve(std::size_t pairs) { output_.reserve(pairs); }

    /// Adds slices, up to `slices_together`, that are filled side by side; tells the pairs of each.
    std::array<std::size_t, slices_together> add_slices(std::span<const SliceRows> slices) {
        std::array<SliceCursor, slices_together> cursors;
        std::array<std::size_t, slices_together> pairs{};
        const std::size_t before = output_.pairs();
        const auto to = [&](std::size_t i) -> PairBuffer& {
            return i == 0 ? output_ : beside_[i - 1];
        };
        for (PairBuffer& other : beside_) other.clear();
        for (std::size_t i = 0; i < slices.size(); ++i)
            cursors[i] = read_rows(slices[i], scratch_[i]);
        const auto left = std::span(cursors).first(slices.size());
        // Those that left room are finished.
        const auto full = [](const SliceCursor& slice) { return slice.room == 0; };
        do {
            for (std::size_t i = 0; i < slices.size(); ++i) {
                to(i).give(cursors[i], slices[i].nonzeros / step_slots + 1);
            }
            fill_(left, shape_, nibbles_);
            for (std::size_t i = 0; i < slices.size(); ++i) to(i).take(cursors[i]);
        } while (std::any_of(left.begin(), left.end(), full));
        pairs[0] = output_.pairs() - before;
        for (std::size_t i = 1; i < slices.size(); ++i) {
            pairs[i] = to(i).pairs();
            output_.append(to(i));
        }
        return pairs;
    }

    [[nodiscard]] const PairBuffer& output() const noexcept { return output_; }

private:
    SliceCursor read_rows(const SliceRows& slice, support::AlignedBuffer<Entry>& scratch) {
        const std::size_t size = slice.nonzeros + slice_rows * (row_slots + read_slack);
        if (scratch.size() < size) {
            scratch = support::AlignedBuffer<Entry>(size + size / 4, support::Fill::none);
        }
        SliceCursor cursor;
        cursor.entries = scratch.data();
        std::size_t at = 0;
        for (std::size_t r = 0; r < slice_rows; ++r) {
            cursor.next[r] = static_cast<std::uint32_t>(at);
            const std::span<const std::uint32_t> rows = slice.rows;
            if (r + rows_ahead < rows.size()) source_.prefetch(rows[r + rows_ahead]);
            if (r < rows.size()) at += source_.read(rows[r], scratch.data() + at);
            std::fill_n(scratch.data() + at, row_slots, past_end);
            at += row_slots;
        }
        return cursor;
    }

    const RowSource& source_;
    sell::FillPairs fill_;
    SellShape shape_;
    bool nibbles_;
    std::array<support::AlignedBuffer<Entry>, slices_together> scratch_;
    PairBuffer output_;
    std::vector<PairBuffer> beside_;
};

}  // namespace tersor::spmm
