// The factors of a blob's rows and columns: a list of floats that is stored in the shortest way
// that gives every bit of it back. docs/format.md has the bytes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "support/varint.hpp"
#include "tersor/huffman.hpp"
#include "tersor/status.hpp"

namespace tersor::layer_parts {

/// How a list is stored: its values, or their places on a grid with 2^s steps to an octave, whose
/// kind is `grid + s`.
namespace factor_kind {
inline constexpr std::uint8_t fp32 = 0;
inline constexpr std::uint8_t fp16 = 1;
inline constexpr std::uint8_t grid = 2;
}  // namespace factor_kind

inline constexpr int most_grid_bits = 6;

/// A list taken apart, not decoded yet; one of no factors has no bytes beside its count.
struct FactorList {
    std::uint64_t count = 0;
    std::uint8_t kind = factor_kind::fp32;
    std::int64_t first = 0;               // place of the smallest factor on the grid
    std::size_t offset = 0;               // in the blob, of the values or the stream
    std::span<const std::uint8_t> bytes;  // the values, or the stream of places above the first
};

/// The float nearest to 2^(place / 2^bits), the same on every processor; bits <= `most_grid_bits`.
/// 0 where that is not a normal number.
[[nodiscard]] float grid_value(std::int64_t place, int bits) noexcept;

/// Takes a list apart; its count must be 0 or `wanted` (or `other`). A fault stays in the cursor.
void parse_factors(support::Cursor& cursor, std::uint64_t wanted, std::uint64_t other,
                   FactorList& list);

/// What decoding holds of a list that becomes `count` floats.
[[nodiscard]] std::uint64_t decoded_bytes(const FactorList& list, std::uint64_t count) noexcept;

/// Decodes a list into `count` floats, each repeated as often as there are fewer of them.
[[nodiscard]] Result decode_factors(const FactorList& list, std::uint64_t count,
                                    std::vector<float>& factors);

/// Appends a list, empty or of finite numbers. Throws std::invalid_argument for others.
void append_factors(std::span<const float> factors, std::vector<std::uint8_t>& blob);

}  // namespace tersor::layer_parts
