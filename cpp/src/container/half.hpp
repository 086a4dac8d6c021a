// IEEE 754 binary16 in software, so that files are the same on every processor.
#pragma once

#include <cstdint>

namespace tersor::container {

/// Rounds to nearest, ties to even; overflows to infinity.
[[nodiscard]] std::uint16_t half_from_float(float value) noexcept;
[[nodiscard]] float float_from_half(std::uint16_t half) noexcept;

}  // namespace tersor::container
