#pragma once

#include <cstdint>
#include <span>

namespace tersor::csr {

/// The largest of the codes; 0 where there are none.
[[nodiscard]] std::uint8_t largest_code(std::span<const std::uint8_t> codes) noexcept;

}  // namespace tersor::csr
