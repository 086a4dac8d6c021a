// Portable kernels of the plane code, and what the fast ones must agree with: eight symbols at a
// time through a table that spreads the bits of a byte over the bytes of a word.
#include <bit>

#include "huffman/kernels.hpp"
#include "support/little_endian.hpp"

namespace tersor::huffman {
namespace {

using support::load_little_endian;

/// 64 bits from bit `at` on; reads nine bytes.
std::uint64_t read_bits(const std::uint8_t* bytes, std::uint64_t at) noexcept {
    const std::uint8_t* p = bytes + at / 8;
    const auto shift = static_cast<unsigned>(at % 8);
    const auto low = load_little_endian<std::uint64_t>(p);
    return (low >> shift) | ((std::uint64_t{p[8]} << 1) << (63 - shift));
}

/// Ors 64 bits in from bit `at` on; writes nine bytes.
void write_bits(std::uint8_t* bytes, std::uint64_t at, std::uint64_t bits) noexcept {
    std::uint8_t* p = bytes + at / 8;
    const auto shift = static_cast<unsigned>(at % 8);
    const auto low = load_little_endian<std::uint64_t>(p);
    support::store_little_endian(low | (bits << shift), p);
    p[8] = static_cast<std::uint8_t>(p[8] | ((bits >> 1) >> (63 - shift)));
}

/// spread[b] has bit i of b as the lowest bit of byte i.
constexpr std::array<std::uint64_t, 256> make_spread() {
    std::array<std::uint64_t, 256> table{};
    for (unsigned b = 0; b < 256; ++b) {
        for (unsigned i = 0; i < 8; ++i) table[b] |= std::uint64_t{(b >> i) & 1U} << (8 * i);
    }
    return table;
}
constexpr std::array<std::uint64_t, 256> spread = make_spread();

/// Every fourth of a deposit: deposit[m * 16 + x] puts the low bits of x where m has ones.
constexpr std::array<std::uint8_t, 256> make_deposit() {
    std::array<std::uint8_t, 256> table{};
    for (unsigned m = 0; m < 16; ++m) {
        for (unsigned x = 0; x < 16; ++x) {
            unsigned from = 0;
            for (unsigned b = 0; b < 4; ++b) {
                if ((m >> b & 1U) == 0) continue;
                table[m * 16 + x] |= static_cast<std::uint8_t>((x >> from++ & 1U) << b);
            }
        }
    }
    return table;
}
constexpr std::array<std::uint8_t, 256> deposit_nibble = make_deposit();

std::uint64_t deposit(std::uint64_t bits, std::uint64_t mask) noexcept {
    std::uint64_t result = 0;
    for (unsigned at = 0; at < 64; at += 4) {
        const auto m = static_cast<unsigned>(mask >> at) & 15U;
        result |= std::uint64_t{deposit_nibble[m * 16 + (bits & 15)]} << at;
        bits >>= std::popcount(m);
    }
    return result;
}

std::uint64_t extract(std::uint64_t bits, std::uint64_t mask) noexcept {
    std::uint64_t result = 0;
    for (unsigned to = 0; mask != 0; mask &= mask - 1, ++to) {
        result |= (bits >> std::countr_zero(mask) & 1U) << to;
    }
    return result;
}

/// The planes of a superblock: the roots', then the levels', most significant first.
using Planes = std::array<Lanes, max_stage_bits>;

struct Masks {
    Lanes alive;  // lanes whose word goes on in the levels
    Lanes tail;   // lanes of later stages
};

Masks masks_of(const Stage& stage, const Planes& planes, const Lanes& lanes) noexcept {
    Masks masks{};
    for (std::size_t g = 0; g < superblock_groups; ++g) {
        std::uint64_t at_least = ~std::uint64_t{0};  // root >= short_roots, from the lowest bit up
        std::uint64_t ones = ~std::uint64_t{0};
        for (int bit = 0; bit < stage.planes; ++bit) {
            const std::uint64_t plane = planes[static_cast<std::size_t>(stage.planes - 1 - bit)][g];
            at_least = (stage.short_roots >> bit & 1U) != 0 ? at_least & plane : at_least | plane;
            ones &= plane;
        }
        masks.tail[g] = stage.tail ? ones & lanes[g] : 0;
        masks.alive[g] = stage.levels > 0 ? at_least & lanes[g] & ~masks.tail[g] : 0;
    }
    return masks;
}

std::uint8_t byte_of(const Lanes& plane, std::size_t place) noexcept {
    return static_cast<std::uint8_t>(plane[place / 8] >> (place % 8 * 8));
}

bool decode_planes(const Stage& stage, const std::uint8_t* bytes, std::size_t superblocks,
                   const Lanes& lanes, const std::array<const std::uint8_t*, max_levels>& levels,
                   const std::uint8_t* tail, const PlaneCursor& end, PlaneCursor& cursor,
                   std::uint8_t* symbols, bool /*streaming*/) noexcept {
    const auto roots = static_cast<std::size_t>(stage.planes);
    const auto all = static_cast<std::size_t>(stage.bits());
    for (std::size_t s = 0; s < superblocks; ++s) {
        Planes planes{};
        for (std::size_t d = 0; d < roots; ++d, bytes += plane_bytes) {
            for (std::size_t g = 0; g < superblock_groups; ++g) {
                planes[d][g] = load_little_endian<std::uint64_t>(bytes + 8 * g);
            }
        }
        const Masks masks = masks_of(stage, planes, lanes);
        if (stage.levels > 0) {
            for (std::size_t g = 0; g < superblock_groups; ++g) {
                for (std::size_t l = 0; l < static_cast<std::size_t>(stage.levels); ++l) {
                    planes[roots + l][g] =
                        deposit(read_bits(levels[l], cursor.level_bits), masks.alive[g]);
                }
                cursor.level_bits += static_cast<unsigned>(std::popcount(masks.alive[g]));
            }
        }
        for (std::size_t block = 0; block < superblock_groups * 8; ++block) {
            const std::size_t place = places[block];
            std::uint64_t indices = 0;
            for (std::size_t d = 0; d < all; ++d) {
                indices = (indices << 1) | spread[byte_of(planes[d], place)];
            }
            for (std::size_t i = 0; i < 8; ++i) {
                symbols[i] = stage.symbols[indices >> (8 * i) & 255];
            }
            unsigned later = byte_of(masks.tail, place);
            for (; later != 0; later &= later - 1) {
                symbols[std::countr_zero(later)] = tail[cursor.tail++];
            }
            symbols += 8;
        }
        if (cursor.level_bits > end.level_bits || cursor.tail > end.tail) return false;
    }
    return true;
}

void encode_planes(const Stage& stage, const std::uint8_t* symbols, std::size_t superblocks,
                   const Lanes& lanes, std::uint8_t* bytes,
                   const std::array<std::uint8_t*, max_levels>& levels, std::uint8_t* tail,
                   PlaneCursor& cursor) noexcept {
    const auto roots = static_cast<std::size_t>(stage.planes);
    const auto all = static_cast<std::size_t>(stage.bits());
    for (std::size_t s = 0; s < superblocks; ++s, symbols += superblock_symbols) {
        Planes planes{};
        for (std::size_t block = 0; block < superblock_groups * 8; ++block) {
            const std::size_t place = places[block];
            const std::uint8_t valid = byte_of(lanes, place);
            for (std::size_t i = 0; i < 8; ++i) {
                if ((valid >> i & 1U) == 0) continue;
                const std::uint8_t symbol = symbols[8 * block + i];
                const std::uint8_t index = stage.indices[symbol];
                for (std::size_t d = 0; d < all; ++d) {
                    planes[d][place / 8] |= std::uint64_t{index >> (all - 1 - d) & 1U}
                                            << (place % 8 * 8 + i);
                }
                if (stage.tail && index == stage.tail_index()) tail[cursor.tail++] = symbol;
            }
        }
        for (std::size_t d = 0; d < roots; ++d, bytes += plane_bytes) {
            for (std::size_t g = 0; g < superblock_groups; ++g) {
                support::store_little_endian(planes[d][g], bytes + 8 * g);
            }
        }
        if (stage.levels == 0) continue;
        const Masks masks = masks_of(stage, planes, lanes);
        for (std::size_t g = 0; g < superblock_groups; ++g) {
            for (std::size_t l = 0; l < static_cast<std::size_t>(stage.levels); ++l) {
                write_bits(levels[l], cursor.level_bits,
                           extract(planes[roots + l][g], masks.alive[g]));
            }
            cursor.level_bits += static_cast<unsigned>(std::popcount(masks.alive[g]));
        }
    }
}

void split_pairs(const std::uint8_t* pairs, std::size_t count, std::uint8_t* symbols,
                 bool /*streaming*/) noexcept {
    for (std::size_t i = 0; i < count; ++i) {
        symbols[2 * i] = pairs[i] & 15;
        symbols[2 * i + 1] = pairs[i] >> 4;
    }
}

void join_pairs(const std::uint8_t* symbols, std::size_t count, std::uint8_t* pairs) noexcept {
    for (std::size_t i = 0; i < count; ++i) {
        pairs[i] = static_cast<std::uint8_t>(symbols[2 * i] | symbols[2 * i + 1] << 4);
    }
}

void count_symbols(const std::uint8_t* symbols, std::size_t count,
                   std::uint64_t* histogram) noexcept {
    // Four tables, so that equal neighbours do not wait for each other's store.
    std::array<std::array<std::uint64_t, alphabet_size>, 4> parts{};
    std::size_t i = 0;
    for (; i + 4 <= count; i += 4) {
        for (std::size_t p = 0; p < 4; ++p) ++parts[p][symbols[i + p]];
    }
    for (; i < count; ++i) ++parts[0][symbols[i]];
    for (std::size_t s = 0; s < alphabet_size; ++s) {
        histogram[s] += parts[0][s] + parts[1][s] + parts[2][s] + parts[3][s];
    }
}

}  // namespace

void install_scalar(Kernels& kernels) noexcept {
    kernels = {decode_planes, encode_planes, split_pairs, join_pairs, count_symbols};
}

}  // namespace tersor::huffman
