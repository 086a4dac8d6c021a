// A matrix of codes as one stream of the range coder, for the smallest file: no part of it decodes
// alone, and a weight takes 50 to 200 ns.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "tersor/status.hpp"

namespace tersor::contexts {

/// What belongs together in a matrix: `taps` columns on end (of a filter bank those of an input
/// channel), `width` of these to a line; 1 and 1 where nothing does.
struct Grouping {
    std::size_t rows = 0;
    std::size_t cols = 0;
    std::size_t taps = 1;
    std::size_t width = 1;
};

/// That of a tensor of one dimension or more, whose matrix fits 32 bits: a vector is one row.
[[nodiscard]] Grouping grouping_of(std::span<const std::uint64_t> shape) noexcept;

/// Bytes that decoding works with, the codes not counted: counts for each column and channel.
[[nodiscard]] std::uint64_t working_bytes(const Grouping& grouping) noexcept;

/// The stream of `codes`, row-major, of which each is 0 or 1 + its entry among `values`.
[[nodiscard]] std::vector<std::uint8_t> encode_matrix(const Grouping& grouping,
                                                      std::span<const float> values,
                                                      std::span<std::uint8_t> codes);

/// Fills `codes`, all 0 before, of which `nonzeros` are not 0 after; `values` are then not empty.
/// truncated where fewer are in the stream, trailing_bytes where it is longer; `count` is the
/// number of its bytes.
[[nodiscard]] Result decode_matrix(std::span<const std::uint8_t> stream, const Grouping& grouping,
                                   std::span<const float> values, std::uint64_t nonzeros,
                                   std::span<std::uint8_t> codes);

}  // namespace tersor::contexts
