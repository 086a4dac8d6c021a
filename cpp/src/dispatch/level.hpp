// The level for what may not throw.
#pragma once

#include "tersor/isa.hpp"

namespace tersor::dispatch {

/// The level in use, or the best one where none is decided on: isa_in_use(), which decides, throws
/// where TERSOR_ISA is wrong. The public functions ask that first, so that kernels below them need
/// not.
[[nodiscard]] Isa level() noexcept;

}  // namespace tersor::dispatch
