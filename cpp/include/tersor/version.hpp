#pragma once

#include <string_view>

namespace tersor {

/// The version of the library, e.g. "0.1.0".
[[nodiscard]] std::string_view version() noexcept;

/// The compiler that built it, e.g. "gcc 12.2.0".
[[nodiscard]] std::string_view compiler() noexcept;

}  // namespace tersor
