// What must hold for the bytes of any blob: it is refused with a position inside it, or it is a
// layer that keeps the rules, can be multiplied with, and comes back from being written again.
#pragma once

#include <cstdint>
#include <span>

namespace tersor::fuzz {

/// Aborts where it does not hold.
void check_layer(std::span<const std::uint8_t> blob);

}  // namespace tersor::fuzz
