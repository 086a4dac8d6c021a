// What the processor and the operating system offer.
#pragma once

#include "tersor/isa.hpp"

namespace tersor::dispatch {

/// Whether instructions of the level may be executed here: the processor has them, and the
/// operating system saves their registers.
[[nodiscard]] bool machine_has(Isa isa) noexcept;

/// Asks the operating system for what a level needs that a process does not have unasked: the state
/// of tiles, which makes the frames of all later signals larger. False where that is refused.
[[nodiscard]] bool enter(Isa isa) noexcept;

/// Whether AArch64's dot product of bytes (Armv8.2) is there.
[[nodiscard]] bool has_dot_product() noexcept;

/// Whether `pdep` and `pext` are slow microcode: AMD before Zen 3.
[[nodiscard]] bool slow_bit_deposit() noexcept;

}  // namespace tersor::dispatch
