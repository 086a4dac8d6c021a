// The element types of safetensors.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string_view>

namespace tersor::support {

struct ElementType {
    std::string_view name;
    std::uint8_t bytes;
};

/// In the order of their codes, from 1: the format counts on it.
inline constexpr std::array<ElementType, 17> element_types = {{{"BOOL", 1},
                                                               {"U8", 1},
                                                               {"I8", 1},
                                                               {"F8_E4M3", 1},
                                                               {"F8_E5M2", 1},
                                                               {"U16", 2},
                                                               {"I16", 2},
                                                               {"F16", 2},
                                                               {"BF16", 2},
                                                               {"U32", 4},
                                                               {"I32", 4},
                                                               {"F32", 4},
                                                               {"U64", 8},
                                                               {"I64", 8},
                                                               {"F64", 8},
                                                               {"C64", 8},
                                                               {"F8_E8M0", 1}}};

/// The code of an element type, or 0 for an unknown name.
[[nodiscard]] inline std::uint8_t element_code(std::string_view dtype) noexcept {
    for (std::size_t i = 0; i < element_types.size(); ++i) {
        if (element_types[i].name == dtype) return static_cast<std::uint8_t>(i + 1);
    }
    return 0;
}

/// Bytes of an element, or 0 for an unknown name.
[[nodiscard]] inline std::uint64_t element_bytes(std::string_view dtype) noexcept {
    const std::uint8_t code = element_code(dtype);
    return code != 0 ? element_types[code - 1].bytes : 0;
}

}  // namespace tersor::support
