// What a small part of a tensor's elements tells of it: how many bits of the mantissa to join to
// exponents, and which fields of which blocks may gain from a code.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "lossless/layout.hpp"
#include "tersor/huffman.hpp"

namespace tersor::lossless {

using Histograms = std::array<huffman::Histogram, max_fields>;

/// Elements of a block, as a power of two: its fields stay in a second-level cache.
inline constexpr int encoded_block_log2 = 17;

/// Elements that are cut and counted together, in the first cache.
inline constexpr std::size_t chunk_elements = 4096;

/// Elements from which on blocks of the bit-sliced code are taken.
inline constexpr std::size_t sliced_from = 16384;

/// Layouts by preference; the last one fits any elements.
[[nodiscard]] std::vector<Layout> layouts_to_try(const Layout& layout, const std::uint8_t* elements,
                                                 std::size_t count);

/// By block, the fields that may gain, as a sum of powers of two; field 0 always.
[[nodiscard]] std::vector<std::uint8_t> promising_fields(const Layout& layout,
                                                         const std::uint8_t* elements,
                                                         std::size_t count);

/// Adds the wanted fields of a run; false where its exponents leave no room for what joins them.
[[nodiscard]] bool count_run(const Layout& layout, const std::uint8_t* elements, std::size_t count,
                             unsigned wanted, Histograms& histograms);

}  // namespace tersor::lossless
