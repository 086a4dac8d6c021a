// What the kernels that fill the layout sell work on.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "spmm/rows/entries.hpp"
#include "spmm/sell/layout.hpp"

namespace tersor::spmm {

/// What some rows have passed at each mark: sums of x - x_first and of its squares, extremes of x.
struct Moments {
    std::array<float, RowStatistics::marks> sums, squares, least, most;
};

/// What the weights of a code are added up for: see row_totals.hpp.
struct alignas(64) CodeTerms : std::array<double, 8> {};

/// The rows of a slice, how far each has been taken, and where the pairs of steps go.
struct SliceCursor {
    alignas(64) std::array<std::uint32_t, slice_rows> next{};  // places in `entries`
    const Entry* entries = nullptr;  // of all rows, each followed by row_slots times `past_end`
    std::uint8_t* pairs = nullptr;
    std::uint8_t* advances = nullptr;
    std::size_t room = 0;      // pairs that may still be made
    std::uint32_t window = 0;  // the last step's, in grains
};

/// Slices that are filled side by side.
inline constexpr std::size_t slices_together = 4;

}  // namespace tersor::spmm
