// The expansion of tiles of weights to bytes, while the unit multiplies those before. Include it
// inside the target region.
//
// A tile of 16 rows takes 16 `vpexpandb` for each limb, two cycles each on Intel's cores, and the
// look-up of 64 codes a shuffle: less than the products of the tile take.
#pragma once

#include <immintrin.h>

#include <array>
#include <cstddef>
#include <cstdint>

#include "spmm/tiles/layout.hpp"

namespace tersor::spmm::tiles {
namespace {  // NOLINT(google-build-namespaces): compiled for the level

/// Tiles whose codes are looked up together.
constexpr std::size_t look_up_steps = 8;

/// How far ahead of their use masks and codes are fetched into the second cache, in bytes.
constexpr std::size_t prefetch_distance = 16384;

inline __m512i load(const void* address) noexcept { return _mm512_loadu_si512(address); }

/// Limbs by code: a look-up in registers for 64 codes.
class LimbTable {
public:
    LimbTable(const std::int8_t* table, std::size_t values) noexcept : wide_(values > 64) {
        for (int i = 0; i < 4; ++i) parts_[i] = load(table + 64 * i);
    }
    [[nodiscard]] __m512i operator[](__m512i codes) const noexcept {
        if (!wide_) return _mm512_permutexvar_epi8(codes, parts_[0]);
        const __m512i low = _mm512_permutex2var_epi8(parts_[0], codes, parts_[1]);
        const __m512i high = _mm512_permutex2var_epi8(parts_[2], codes, parts_[3]);
        return _mm512_mask_mov_epi8(low, _mm512_movepi8_mask(codes), high);
    }

private:
    __m512i parts_[4];
    bool wide_;
};

/// How far a group of rows has been expanded.
struct Position {
    const std::uint64_t* masks;
    std::uint64_t code;
};

/// Limbs of `most` tiles at most, as they follow each other in the layout.
template <int w_limbs>
struct PackedLimbs {
    static constexpr std::size_t size = look_up_steps * tile_bytes + 2 * 64;
    alignas(64) std::uint8_t limbs[w_limbs][size];
};

/// What is left of these to expand. A copy is in registers, which a member that bytes are stored
/// beside is not.
struct Pending {
    const std::uint64_t* masks;
    const std::uint8_t* limbs;

    /// Expands some of the 16 parts of the next tile, its limbs one behind the other.
    template <int w_limbs>
    void expand(std::uint8_t* tile, std::size_t begin, std::size_t end) noexcept {
#pragma GCC unroll 1  // it is inlined for each product of tiles, and short there
        for (std::size_t m = begin; m < end; ++m) {
            const std::uint64_t mask = *masks++;
#pragma GCC unroll 3
            for (std::size_t q = 0; q < w_limbs; ++q) {
                const __m512i packed = load(limbs + q * PackedLimbs<w_limbs>::size);
                _mm512_store_si512(tile + q * tile_bytes + 64 * m,
                                   _mm512_maskz_expand_epi8(mask, packed));
            }
            limbs += _mm_popcnt_u64(mask);
        }
    }
};

/// Looks up the codes of a group's tiles one after the other.
template <int w_limbs>
class Lookup {
public:
    Lookup(const Tiles& layout, const Limbs& weights) noexcept
        : codes_(layout.codes.data()),
          nibbles_(layout.nibbles()),
          tables_{LimbTable(weights.table[0].data(), layout.values),
                  LimbTable(weights.table[1].data(), layout.values),
                  LimbTable(weights.table[2].data(), layout.values)} {}

    /// The next tiles of a group.
    [[nodiscard]] Pending next(Position& position, std::size_t tiles) noexcept {
        __m512i counts = _mm512_setzero_si512();
        for (std::size_t i = 0; i < tiles * tile_masks; i += 8) {
            counts = _mm512_add_epi64(counts, _mm512_popcnt_epi64(load(position.masks + i)));
        }
        const auto size = static_cast<std::size_t>(_mm512_reduce_add_epi64(counts));
        prefetch(position.masks, tiles * tile_masks * sizeof(std::uint64_t));
        prefetch(codes_ + (nibbles_ ? position.code / 2 : position.code),
                 nibbles_ ? size / 2 : size);
        // Nibbles may begin in the middle of a byte.
        const std::size_t skip = nibbles_ ? position.code % 2 : 0;
        for (std::size_t i = 0; i < size + skip; i += 64) {
            const __m512i codes = codes_from(position.code + i);
#pragma GCC unroll 3
            for (std::size_t q = 0; q < w_limbs; ++q) {
                _mm512_store_si512(packed_.limbs[q] + i, tables_[q][codes]);
            }
        }
        const Pending pending{position.masks, packed_.limbs[0] + skip};
        position.masks += tiles * tile_masks;
        position.code += size;
        return pending;
    }

private:
    /// The processor fetches ahead too late.
    static void prefetch(const void* from, std::size_t size) noexcept {
        const char* next = static_cast<const char*>(from) + prefetch_distance;
        for (std::size_t i = 0; i < size; i += 64) _mm_prefetch(next + i, _MM_HINT_T1);
    }
    [[nodiscard]] __m512i codes_from(std::uint64_t first) const noexcept {
        if (!nibbles_) return load(codes_ + first);
        const __m512i pairs = _mm512_cvtepu8_epi16(
            _mm256_loadu_si256(reinterpret_cast<const __m256i*>(codes_ + first / 2)));
        return _mm512_and_si512(_mm512_or_si512(pairs, _mm512_slli_epi16(pairs, 4)),
                                _mm512_set1_epi8(15));
    }

    const std::uint8_t* codes_;
    bool nibbles_;
    std::array<LimbTable, max_limbs> tables_;
    PackedLimbs<w_limbs> packed_;
};

}  // namespace
}  // namespace tersor::spmm::tiles
