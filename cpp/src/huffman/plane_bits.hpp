// Bit strings that kernels read and write 64 bits at a time, the first bit lowest.
#pragma once

#include <cstdint>

#include "support/little_endian.hpp"

namespace tersor::huffman {

/// 64 bits from bit `at` on; reads nine bytes.
inline std::uint64_t read_bits(const std::uint8_t* bytes, std::uint64_t at) noexcept {
    const std::uint8_t* p = bytes + at / 8;
    const auto shift = static_cast<unsigned>(at % 8);
    const auto low = support::load_little_endian<std::uint64_t>(p);
    return (low >> shift) | ((std::uint64_t{p[8]} << 1) << (63 - shift));
}

/// Ors 64 bits in from bit `at` on; writes nine bytes.
inline void write_bits(std::uint8_t* bytes, std::uint64_t at, std::uint64_t bits) noexcept {
    std::uint8_t* p = bytes + at / 8;
    const auto shift = static_cast<unsigned>(at % 8);
    const auto low = support::load_little_endian<std::uint64_t>(p);
    support::store_little_endian(low | (bits << shift), p);
    p[8] = static_cast<std::uint8_t>(p[8] | ((bits >> 1) >> (63 - shift)));
}

}  // namespace tersor::huffman
