// What the processor and the operating system offer.
#pragma once

#include "tersor/isa.hpp"

namespace tersor::dispatch {

/// Whether instructions of the level may be executed here: the processor has them, and the
/// operating system saves their registers.
[[nodiscard]] bool machine_has(Isa isa) noexcept;

}  // namespace tersor::dispatch
