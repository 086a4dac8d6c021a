// What the NEON kernels of the bit-sliced code have in common: 16 symbols at a time in the order of
// places, two bytes of each plane.
#pragma once

#include "dispatch/architecture.hpp"
#include "huffman/kernels.hpp"
#include "huffman/plane_bytes.hpp"
#include "huffman/plane_stages.hpp"

#if TERSOR_ARM64

#include <arm_neon.h>

#include <cstring>

namespace tersor::huffman {

inline constexpr std::size_t width = 16;

/// Where in a superblock the symbols of each place begin; those of an odd place, 64 behind those of
/// the place before.
constexpr std::array<std::uint16_t, plane_bytes> make_symbols_of_place() {
    std::array<std::uint16_t, plane_bytes> table{};
    for (std::size_t block = 0; block < plane_bytes; ++block) {
        table[places[block]] = static_cast<std::uint16_t>(8 * block);
    }
    return table;
}
inline constexpr std::array<std::uint16_t, plane_bytes> symbols_of_place = make_symbols_of_place();
static_assert(symbols_of_place[1] == symbols_of_place[0] + 64);

/// The bit of each lane in a byte of a plane.
inline uint8x16_t lane_bits() noexcept {
    return vreinterpretq_u8_u64(vdupq_n_u64(0x8040201008040201));
}

/// All ones in the lanes that have a one in bytes 2 j and 2 j + 1 of 16 bytes of a plane.
inline uint8x16_t lanes_of(uint8x16_t plane, std::size_t j) noexcept {
    const uint8x8_t first = vdup_n_u8(static_cast<std::uint8_t>(2 * j));
    const uint8x16_t select = vcombine_u8(first, vadd_u8(first, vdup_n_u8(1)));
    return vtstq_u8(vqtbl1q_u8(plane, select), lane_bits());
}

/// table[index], for indices of `bits` bits.
template <int bits>
inline uint8x16_t look_up(const std::uint8_t* table, uint8x16_t index) noexcept {
    if constexpr (bits <= 4) {
        return vqtbl1q_u8(vld1q_u8(table), index);
    } else if constexpr (bits == 5) {
        return vqtbl2q_u8(vld1q_u8_x2(table), index);
    } else {
        uint8x16_t found = vqtbl4q_u8(vld1q_u8_x4(table), index);
        for (int from = 64; from < 1 << bits; from += 64) {
            index = vsubq_u8(index, vdupq_n_u8(64));
            found = vqtbx4q_u8(found, vld1q_u8_x4(table + from), index);
        }
        return found;
    }
}

/// The two halves of 16 lanes to their places among the symbols of a superblock.
inline void store_halves(std::uint8_t* superblock, std::size_t place, uint8x16_t lanes) noexcept {
    std::uint8_t* const to = superblock + symbols_of_place[place];
    vst1_u8(to, vget_low_u8(lanes));
    vst1_u8(to + 64, vget_high_u8(lanes));
}
inline uint8x16_t load_halves(const std::uint8_t* superblock, std::size_t place) noexcept {
    const std::uint8_t* const from = superblock + symbols_of_place[place];
    return vcombine_u8(vld1_u8(from), vld1_u8(from + 64));
}

/// Which lanes hold a symbol: all of them but in a block's last superblock.
inline uint8x16_t present_lanes(const Lanes& lanes, std::size_t place) noexcept {
    std::uint64_t group = lanes[place / 8] >> (place % 8 * 8);
    return lanes_of(vreinterpretq_u8_u16(vdupq_n_u16(static_cast<std::uint16_t>(group))), 0);
}

}  // namespace tersor::huffman

#endif
