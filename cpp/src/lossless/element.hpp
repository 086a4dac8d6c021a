// One element and its fields: what all kernels do, and what they do it with at the ends of runs.
#pragma once

#include <concepts>
#include <cstddef>
#include <cstdint>

#include "lossless/layout.hpp"

namespace tersor::lossless {

template <std::unsigned_integral T>
inline constexpr int bits_of = 8 * static_cast<int>(sizeof(T));

/// The number whose highest byte is field 0, but for base and joined bits.
template <std::unsigned_integral T, Transform transform>
[[nodiscard]] constexpr T forward(T x) noexcept {
    if constexpr (transform == Transform::rotate) {
        return static_cast<T>((x << 1) | (x >> (bits_of<T> - 1)));
    } else if constexpr (transform == Transform::fold) {
        return static_cast<T>((x << 1) ^ (0 - (x >> (bits_of<T> - 1))));
    } else {
        return x;
    }
}

template <std::unsigned_integral T, Transform transform>
[[nodiscard]] constexpr T backward(T y) noexcept {
    if constexpr (transform == Transform::rotate) {
        return static_cast<T>((y >> 1) | (y << (bits_of<T> - 1)));
    } else if constexpr (transform == Transform::fold) {
        return static_cast<T>((y >> 1) ^ (0 - (y & 1U)));
    } else {
        return y;
    }
}

/// The base, where it is added.
template <std::unsigned_integral T>
[[nodiscard]] constexpr T base_of(const Layout& layout) noexcept {
    return static_cast<T>(T{layout.base} << (bits_of<T> - 8));
}

/// Bits of field 1 of element i where they stand without gaps.
[[nodiscard]] inline std::uint8_t packed_bits(const std::uint8_t* bytes, int bits,
                                              std::size_t i) noexcept {
    const std::size_t at = i * static_cast<unsigned>(bits);
    const auto shift = static_cast<unsigned>(at % 8);
    unsigned window = bytes[at / 8];
    if (shift + static_cast<unsigned>(bits) > 8) window |= unsigned{bytes[at / 8 + 1]} << 8;
    return static_cast<std::uint8_t>((window >> shift) & ((1U << bits) - 1));
}

/// Calls `function` with the unsigned type of an element's width and its transform as template
/// arguments; single bytes have nothing to cut.
template <class Function>
auto with_layout(const Layout& layout, const Function& function) noexcept {
    const auto with = [&]<class T>() noexcept {
        switch (layout.transform) {
            case Transform::rotate: return function.template operator()<T, Transform::rotate>();
            case Transform::fold: return function.template operator()<T, Transform::fold>();
            default: return function.template operator()<T, Transform::none>();
        }
    };
    switch (layout.width) {
        case 2: return with.template operator()<std::uint16_t>();
        case 4: return with.template operator()<std::uint32_t>();
        default: return with.template operator()<std::uint64_t>();
    }
}

/// The same, with whether field 1 has its bits without gaps as a third argument: where bits are
/// joined, which they are of turned floats alone.
template <class Function>
void with_layout(const Layout& layout, bool packed, const Function& function) noexcept {
    with_layout(layout, [&]<class T, Transform transform>() noexcept {
        if constexpr (transform == Transform::rotate) {
            if (packed) return function.template operator()<T, transform, true>();
        }
        function.template operator()<T, transform, false>();
    });
}

}  // namespace tersor::lossless
