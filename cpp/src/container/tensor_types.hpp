// The bytes of tensors, and what tells a blob from an ordinary tensor.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>

#include "support/checked_size.hpp"
#include "support/element_types.hpp"
#include "tersor/container.hpp"

namespace tersor::container {

using support::element_bytes;
using support::element_code;
using support::element_types;
using support::ElementType;

/// Bytes of a tensor; false when they are more than memory can hold.
[[nodiscard]] inline bool tensor_bytes(std::span<const std::uint64_t> shape, std::uint64_t element,
                                       std::uint64_t& bytes) noexcept {
    bytes = element;
    for (const std::uint64_t dimension : shape) {
        if (!support::multiply_size(bytes, dimension)) return false;
    }
    return true;
}

/// Whether a tensor is the blob of a layer: what the writer calls so and what starts like one.
[[nodiscard]] inline bool is_blob(std::string_view name, std::string_view dtype,
                                  std::span<const std::uint64_t> shape,
                                  std::span<const std::uint8_t> bytes) noexcept {
    return name.ends_with(blob_suffix) && dtype == "U8" && shape.size() == 1 && is_layer(bytes);
}

/// Of the JSON header with its padding; the limit of the stock library.
inline constexpr std::uint64_t max_header_bytes = 100'000'000;

}  // namespace tersor::container
