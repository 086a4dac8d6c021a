// What this machine has.
#pragma once

#include <cstddef>

namespace tersor::support {

/// In bytes; as much as an address can name where there is more.
[[nodiscard]] std::size_t physical_memory() noexcept;

}  // namespace tersor::support
