// What rows pass through on their way from the canonical form into a layout.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

namespace tersor::spmm {

/// A non-zero: column * 256 + code, so that entries of a row in order are numbers in order.
using Entry = std::uint32_t;

/// Behind the last entry of a row: past every window.
inline constexpr Entry past_end = UINT32_MAX;

/// Entries that a decoded row may overwrite past its end.
inline constexpr std::size_t read_slack = 16;

/// How a row's non-zeros lie: what the order of the rows goes by.
struct RowStatistics {
    static constexpr std::size_t marks = 8;

    /// About how many of them are passed at each eighth of the columns; at the last, exactly all.
    std::array<float, marks> passed{};

    [[nodiscard]] std::size_t nonzeros() const noexcept {
        return static_cast<std::uint32_t>(static_cast<std::int32_t>(passed[marks - 1]));
    }
};

/// What each row of a RelativeCsr has to obey.
struct RowRules {
    std::uint32_t cols = 0;
    int index_bits = 0;
    std::size_t values = 0;  // codes are below it
};

/// The column of a mark.
[[nodiscard]] constexpr std::uint32_t mark_column(std::size_t mark, std::uint32_t cols) noexcept {
    return static_cast<std::uint32_t>((mark + 1) * std::uint64_t{cols} / RowStatistics::marks);
}

}  // namespace tersor::spmm
