// Planes as bytes: what the kernels share that have no `pext`.
#pragma once

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>

#include "huffman/kernels.hpp"
#include "support/little_endian.hpp"

namespace tersor::huffman {

/// extract_nibble[m * 16 + x]: the bits of x where m has ones, moved together.
constexpr std::array<std::uint8_t, 256> make_extract() {
    std::array<std::uint8_t, 256> table{};
    for (unsigned m = 0; m < 16; ++m) {
        for (unsigned x = 0; x < 16; ++x) {
            unsigned to = 0;
            for (unsigned b = 0; b < 4; ++b) {
                if ((m >> b & 1U) == 0) continue;
                table[m * 16 + x] |= static_cast<std::uint8_t>((x >> b & 1U) << to++);
            }
        }
    }
    return table;
}
inline constexpr std::array<std::uint8_t, 256> extract_nibble = make_extract();

/// A plane of a superblock as it is stored: byte p has the eight symbols of the block of place p.
using Bytes = std::array<std::uint8_t, plane_bytes>;

/// Bit planes of indices, most significant first: those of the roots, then the suffixes'.
using Planes = std::array<Bytes, max_stage_bits>;

struct Masks {
    std::array<Bytes, max_suffixes> alive;  // lanes whose word has a bit in each suffix
    Bytes tail;                             // lanes of later stages
};

inline Masks masks_of(const Stage& stage, const Planes& planes, const Lanes& lanes) noexcept {
    Masks masks;
    for (std::size_t g = 0; g < superblock_groups; ++g) {
        const auto plane_of_bit = [&](int bit) noexcept {
            return support::load_little_endian<std::uint64_t>(
                planes[static_cast<std::size_t>(stage.planes - 1 - bit)].data() + 8 * g);
        };
        std::uint64_t tail = stage.tail ? lanes[g] : 0;
        for (int bit = 0; bit < stage.planes; ++bit) tail &= plane_of_bit(bit);
        support::store_little_endian(tail, masks.tail.data() + 8 * g);
        for (std::size_t l = 0; l < static_cast<std::size_t>(stage.suffixes); ++l) {
            std::uint64_t at_least = ~std::uint64_t{0};  // root >= suffix root, from the lowest bit
            for (int bit = 0; bit < stage.planes; ++bit) {
                const std::uint64_t plane = plane_of_bit(bit);
                const bool one = (stage.suffix_roots[l] >> bit & 1U) != 0;
                at_least = one ? at_least & plane : at_least | plane;
            }
            support::store_little_endian(at_least & lanes[g] & ~tail,
                                         masks.alive[l].data() + 8 * g);
        }
    }
    return masks;
}

/// The bits of a plane where `alive` has ones, to a suffix; returns where they end.
inline std::uint64_t extract_suffix(const Bytes& plane, const Bytes& alive, std::uint8_t* suffix,
                                    std::uint64_t at) noexcept {
    std::uint8_t* to = suffix + at / 8;
    auto filled = static_cast<unsigned>(at % 8);
    unsigned pending = filled == 0 ? 0U : *to & ((1U << filled) - 1);
    for (std::size_t p = 0; p < plane_bytes; ++p) {
        for (unsigned half = 0; half < 8; half += 4) {
            const unsigned mask = (alive[p] >> half) & 15U;
            const unsigned bits = extract_nibble[mask * 16 + ((plane[p] >> half) & 15U)];
            pending |= bits << filled;
            const auto count = static_cast<unsigned>(std::popcount(mask));
            filled += count;
            at += count;
            *to = static_cast<std::uint8_t>(pending);
            to += filled / 8;
            pending >>= filled & ~7U;
            filled %= 8;
        }
    }
    *to = static_cast<std::uint8_t>(pending);
    return at;
}

}  // namespace tersor::huffman
