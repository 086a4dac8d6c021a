// What the writer and the reader of a layer's blob agree on; docs/format.md has the bytes.
#pragma once

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <span>
#include <stdexcept>
#include <string>

#include "container/half.hpp"
#include "support/little_endian.hpp"
#include "tersor/layer.hpp"

namespace tersor::layer_parts {

inline constexpr std::array<std::uint8_t, 3> magic = {'T', 'S', 'R'};
/// Major version in the low half, minor in the high one; only blobs with factors need the later.
inline constexpr std::uint8_t format_version = 0x01;
inline constexpr std::uint8_t version_with_factors = 0x11;
inline constexpr std::uint8_t version_with_contexts = 0x31;
/// Of the flags of that version: whether there are factors.
inline constexpr std::uint8_t factors_flag = 1U << 6;
inline constexpr std::size_t max_dimensions = 8;
inline constexpr std::uint64_t max_clusters = 255;

/// Of the hash that a blob of a version ends with.
constexpr std::size_t hash_bytes(std::uint8_t version) noexcept {
    return version == version_with_contexts ? 4 : 8;
}

inline std::size_t value_width(ValueKind kind) noexcept {
    return kind == ValueKind::shared_fp32 || kind == ValueKind::plain_fp32 ? 4 : 2;
}

/// The tensor as a matrix: its first dimension by the product of the others.
struct MatrixShape {
    std::uint32_t rows = 0;
    std::uint32_t cols = 0;
};

inline bool matrix_shape(std::span<const std::uint64_t> shape, MatrixShape& matrix) noexcept {
    if (shape.empty() || shape.size() > max_dimensions || shape[0] > UINT32_MAX) return false;
    std::uint64_t cols = 1;
    for (const std::uint64_t dimension : shape.subspan(1)) {
        if (dimension > UINT32_MAX) return false;
        cols *= dimension;
        if (cols > UINT32_MAX) return false;
    }
    matrix = {static_cast<std::uint32_t>(shape[0]), static_cast<std::uint32_t>(cols)};
    return true;
}

inline float read_value(const std::uint8_t* bytes, ValueKind kind) noexcept {
    return value_width(kind) == 4
               ? std::bit_cast<float>(support::load_little_endian<std::uint32_t>(bytes))
               : container::float_from_half(support::load_little_endian<std::uint16_t>(bytes));
}

/// Throws std::invalid_argument.
inline void check(bool good, const char* message) {
    if (!good) throw std::invalid_argument(std::string("layer: ") + message);
}

}  // namespace tersor::layer_parts
