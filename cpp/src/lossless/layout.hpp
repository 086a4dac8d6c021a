// How an element is cut into fields of a byte each. docs/format.md has a picture.
//
// An element is first mapped to a number whose highest bits are the ones that repeat: a float is
// turned left by its sign, so that its exponent leads; a signed integer is folded, so that small
// ones of both signs have zeros in front. The highest byte is field 0. Of floats with exponents of
// eight bits, `joined` leading bits of the mantissa may move into it, which is where the
// distribution inside an octave leaves something to gain, after `base` was taken from the exponent
// to make room. Field 1 has the bits that are then left of the second byte, and each further field
// a byte.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "support/element_types.hpp"

namespace tersor::lossless {

enum class Transform : std::uint8_t { none, rotate, fold };

inline constexpr std::size_t max_fields = 8;
inline constexpr int max_joined = 2;

struct Layout {
    std::size_t width = 1;  // bytes of what is cut: an element, or one part of a complex number
    Transform transform = Transform::none;
    bool joins = false;  // whether the mantissa may lend bits
    int joined = 0;
    std::uint8_t base = 0;

    /// Bits of a field in an element.
    [[nodiscard]] constexpr int bits(std::size_t field) const noexcept {
        return field == 1 ? 8 - joined : 8;
    }
    /// Bytes of a field that is stored as it is, of `elements` elements: bits without gaps.
    [[nodiscard]] constexpr std::uint64_t plain_bytes(std::size_t field,
                                                      std::uint64_t elements) const noexcept {
        return bits(field) == 8 ? elements
                                : (elements * static_cast<unsigned>(bits(field)) + 7) / 8;
    }
};

/// The layout of an element type, by its code (support/element_types.hpp), with nothing joined.
[[nodiscard]] constexpr Layout layout_of(std::uint8_t type) noexcept {
    constexpr std::array<Layout, support::element_types.size() + 1> layouts = [] {
        std::array<Layout, support::element_types.size() + 1> table{};
        for (std::size_t i = 0; i < support::element_types.size(); ++i) {
            const auto [name, bytes] = support::element_types[i];
            Layout& layout = table[i + 1];
            layout.width = bytes;
            if (name == "I16" || name == "I32" || name == "I64") layout.transform = Transform::fold;
            if (name == "F16" || name == "F64") layout.transform = Transform::rotate;
            if (name == "BF16" || name == "F32" || name == "C64") {
                layout.transform = Transform::rotate;
                layout.joins = true;
                if (name == "C64") layout.width = 4;
            }
        }
        return table;
    }();
    return layouts[type];
}

}  // namespace tersor::lossless
