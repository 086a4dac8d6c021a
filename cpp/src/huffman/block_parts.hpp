// How the parts of a block lie beside each other: what its writer and its reader agree on.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>

#include "hash/xxh3.hpp"
#include "huffman/bit_sliced_code.hpp"
#include "huffman/kernels.hpp"

namespace tersor::huffman {

inline constexpr std::size_t checksum_bytes = 4;

inline std::uint32_t checksum(std::span<const std::uint8_t> bytes) noexcept {
    return static_cast<std::uint32_t>(hash::xxh3_64(bytes));
}

constexpr std::size_t rounded_up(std::size_t size, std::size_t to) noexcept {
    return (size + to - 1) / to * to;
}

/// Bytes of one plane of the last symbols of a stage, fewer than a superblock, which stand in the
/// order of the symbols.
constexpr std::size_t remainder_bytes(std::size_t symbols) noexcept {
    return (symbols % superblock_symbols + 7) / 8;
}

constexpr std::size_t planes_size(const Stage& stage, std::size_t symbols) noexcept {
    return static_cast<std::size_t>(stage.planes) *
           (symbols / superblock_symbols * plane_bytes + remainder_bytes(symbols));
}

constexpr std::size_t bytes_of(std::uint64_t bits) noexcept {
    return static_cast<std::size_t>((bits + 7) / 8);
}

/// The lanes of the first `symbols` of a superblock.
inline Lanes first_lanes(std::size_t symbols) noexcept {
    Lanes lanes{};
    for (std::size_t b = 0; 8 * b < symbols; ++b) {
        const std::size_t place = places[b];
        const std::uint64_t bits =
            (std::uint64_t{1} << std::min<std::size_t>(symbols - 8 * b, 8)) - 1;
        lanes[place / 8] |= bits << (place % 8 * 8);
    }
    return lanes;
}

}  // namespace tersor::huffman
