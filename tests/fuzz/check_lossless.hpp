// What must hold of any bytes that are taken for a blob of a tensor without loss.
#pragma once

#include <cstdint>
#include <span>

namespace tersor::fuzz {

/// Aborts where levels, or parts and the whole, do not agree.
void check_lossless(std::span<const std::uint8_t> blob);

}  // namespace tersor::fuzz
