// Integers as the format stores them, on any processor.
#pragma once

#include <bit>
#include <concepts>
#include <cstdint>
#include <cstring>
#include <vector>

namespace tersor::support {

template <std::unsigned_integral T>
[[nodiscard]] inline T load_little_endian(const std::uint8_t* bytes) noexcept {
    T value = 0;
    if constexpr (std::endian::native == std::endian::little) {
        std::memcpy(&value, bytes, sizeof value);
    } else {
        for (std::size_t i = sizeof value; i-- > 0;)
            value = static_cast<T>((value << 8) | bytes[i]);
    }
    return value;
}

template <std::unsigned_integral T>
inline void store_little_endian(T value, std::uint8_t* bytes) noexcept {
    if constexpr (std::endian::native == std::endian::little) {
        std::memcpy(bytes, &value, sizeof value);
    } else {
        for (std::size_t i = 0; i < sizeof value; ++i) {
            bytes[i] = static_cast<std::uint8_t>(value >> (8 * i));
        }
    }
}

template <std::unsigned_integral T>
inline void append_little_endian(T value, std::vector<std::uint8_t>& out) {
    for (std::size_t i = 0; i < sizeof value; ++i) {
        out.push_back(static_cast<std::uint8_t>(value >> (8 * i)));
    }
}

}  // namespace tersor::support
