// The element types of safetensors, and what the hash of an ordinary tensor covers.
#pragma once

#include <cstdint>
#include <limits>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "hash/xxh3.hpp"
#include "support/little_endian.hpp"

namespace tersor::container {

/// Bytes of an element, or 0 for an unknown name.
[[nodiscard]] inline std::uint64_t element_bytes(std::string_view dtype) noexcept {
    if (dtype == "BOOL" || dtype == "U8" || dtype == "I8" || dtype == "F8_E4M3" ||
        dtype == "F8_E5M2") {
        return 1;
    }
    if (dtype == "U16" || dtype == "I16" || dtype == "F16" || dtype == "BF16") return 2;
    if (dtype == "U32" || dtype == "I32" || dtype == "F32") return 4;
    if (dtype == "U64" || dtype == "I64" || dtype == "F64" || dtype == "C64") return 8;
    return 0;
}

/// Bytes of a tensor; false when the product overflows.
[[nodiscard]] inline bool tensor_bytes(std::span<const std::uint64_t> shape, std::uint64_t element,
                                       std::uint64_t& bytes) noexcept {
    bytes = element;
    for (const std::uint64_t dimension : shape) {
        if (dimension != 0 && bytes > std::numeric_limits<std::uint64_t>::max() / dimension) {
            return false;
        }
        bytes *= dimension;
    }
    return true;
}

/// Covers the bytes and what they mean: name, type, shape.
[[nodiscard]] inline std::uint64_t tensor_hash(std::string_view name, std::string_view dtype,
                                               std::span<const std::uint64_t> shape,
                                               std::span<const std::uint8_t> bytes) {
    std::vector<std::uint8_t> text(name.begin(), name.end());
    text.push_back(0);
    text.insert(text.end(), dtype.begin(), dtype.end());
    text.push_back(0);
    for (const std::uint64_t dimension : shape) support::append_little_endian(dimension, text);
    support::append_little_endian(hash::xxh3_64(bytes), text);
    return hash::xxh3_64(text);
}

/// 16 lower-case hexadecimal digits.
[[nodiscard]] inline std::string hash_text(std::uint64_t hash) {
    std::string text(16, '0');
    for (int i = 15; i >= 0; --i, hash >>= 4) {
        text[static_cast<std::size_t>(i)] = "0123456789abcdef"[hash & 15];
    }
    return text;
}

/// The key of `__metadata__` that holds what the library itself wants to know about a file.
inline constexpr std::string_view metadata_key = "tersor";
inline constexpr std::uint64_t file_version = 0;

/// Of the JSON header with its padding; the limit of the stock library.
inline constexpr std::uint64_t max_header_bytes = 100'000'000;

}  // namespace tersor::container
