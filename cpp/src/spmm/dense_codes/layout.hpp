// The dense slices of the SELL layout: where half of the weights are kept, the codes of all columns
// are stored, 0 for what is pruned, and no columns. Rows keep their order; four neighbouring rows,
// line by line, make one stream:
//
//   line 0 of row 0 | of row 1 | of row 2 | of row 3 | line 1 of row 0 | ...     64 bytes each
//
//   a line, codes of 4 bits (of up to 16 values)     byte j: column j, and column 64 + j above it
//           codes of 2 bits (of up to 4)             byte j: columns j, 64 + j, 128 + j, 192 + j
//           codes of 8 bits, or integers             byte j: column j
//
// so that a shift leaves the codes of 64 neighbouring columns in the bytes of a register.
#pragma once

#include <cstddef>
#include <cstdint>

namespace tersor::spmm::dense_codes {

inline constexpr std::size_t line_bytes = 64;
inline constexpr std::size_t group_rows = 4;

/// Bits of a code, by the number of values in the codebook.
[[nodiscard]] constexpr int code_bits(std::size_t codes) noexcept {
    return codes <= 4 ? 2 : codes <= 16 ? 4 : 8;
}

/// Columns whose codes a line holds.
[[nodiscard]] constexpr std::size_t line_columns(int bits) noexcept {
    return line_bytes * (8 / static_cast<std::size_t>(bits));
}

/// Bytes of a row: whole lines.
[[nodiscard]] constexpr std::size_t row_bytes(std::size_t cols, int bits) noexcept {
    return (cols + line_columns(bits) - 1) / line_columns(bits) * line_bytes;
}

/// The first line of a row; the next one of the same row is `group_rows` lines further on.
template <class Byte>
[[nodiscard]] constexpr Byte* first_line(Byte* codes, std::size_t bytes_of_row,
                                         std::size_t row) noexcept {
    return codes + row / group_rows * group_rows * bytes_of_row + row % group_rows * line_bytes;
}

}  // namespace tersor::spmm::dense_codes
