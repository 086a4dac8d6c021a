// Portable kernel that decodes the bit-sliced code, and what the fast ones must agree with: eight
// symbols at a time, by tables that take a byte of a plane each.
#include <algorithm>
#include <bit>

#include "huffman/kernels.hpp"
#include "huffman/plane_bytes.hpp"
#include "support/little_endian.hpp"

namespace tersor::huffman {
namespace {

using support::load_little_endian;
using support::store_little_endian;

/// [b] has bit i of b as the lowest bit of byte i.
using Spread = std::array<std::uint64_t, 256>;

void fill(Spread& spread) noexcept {
    for (unsigned b = 0; b < 256; ++b) {
        spread[b] = 0;
        for (unsigned i = 0; i < 8; ++i) spread[b] |= std::uint64_t{(b >> i) & 1U} << (8 * i);
    }
}

constexpr std::size_t power_of_three_8 = 6561;

/// Bits of a byte deposited where a mask has ones, for each mask and as many bits as it has ones.
struct Deposits {
    struct Mask {
        std::uint16_t first;  // where the results of the mask begin
        std::uint8_t bits;    // as many ones at the bottom as the mask has
        std::uint8_t count;
    };
    std::array<Mask, 256> masks;
    std::array<std::uint8_t, power_of_three_8> results;
};

void fill(Deposits& deposits) noexcept {
    std::size_t next = 0;
    for (unsigned m = 0; m < 256; ++m) {
        const auto count = static_cast<unsigned>(std::popcount(m));
        deposits.masks[m] = {static_cast<std::uint16_t>(next),
                             static_cast<std::uint8_t>((1U << count) - 1),
                             static_cast<std::uint8_t>(count)};
        // The subsets of a mask in rising order are the deposits of 0, 1, 2, ...
        unsigned subset = 0;
        do {
            deposits.results[next++] = static_cast<std::uint8_t>(subset);
            subset = (subset - m) & m;
        } while (subset != 0);
    }
}

struct Tables {
    Tables() noexcept {
        fill(spread);
        fill(deposits);
    }
    Spread spread;
    Deposits deposits;
};

/// Made when they are first needed: in the library they would take more than all else here.
const Tables& tables() noexcept {
    static const Tables tables;
    return tables;
}

/// The bits of a suffix, given out to the lanes of `alive`; returns where they end.
std::uint64_t deposit_suffix(const Deposits& deposits, const std::uint8_t* suffix, std::uint64_t at,
                             const Bytes& alive, Bytes& plane) noexcept {
    for (std::size_t p = 0; p < plane_bytes; ++p) {
        const Deposits::Mask mask = deposits.masks[alive[p]];
        const unsigned window = load_little_endian<std::uint16_t>(suffix + at / 8) >> (at % 8);
        plane[p] = deposits.results[mask.first + (window & mask.bits)];
        at += mask.count;
    }
    return at;
}

/// The symbols of two indices of four bits at most each.
using PairTable = std::array<std::uint16_t, 256>;

PairTable make_pairs(const Stage& stage) noexcept {
    PairTable table;
    for (std::size_t i = 0; i < table.size(); ++i) {
        table[i] = static_cast<std::uint16_t>(stage.symbols[i % 16] | (stage.symbols[i / 16] << 8));
    }
    return table;
}

/// The symbols of a superblock by the planes of their indices.
template <std::size_t bits>
void look_up(const Spread& spread, const Stage& stage, const PairTable& pairs, const Planes& planes,
             std::uint8_t* symbols) noexcept {
    for (std::size_t block = 0; block < plane_bytes; ++block, symbols += 8) {
        const std::size_t place = places[block];
        std::uint64_t indices = 0;  // byte i: the index of symbol i
        for (std::size_t d = 0; d < bits; ++d) {
            indices = (indices << 1) | spread[planes[d][place]];
        }
        if constexpr (bits <= 4) {
            indices |= indices >> 4;
            for (unsigned i = 0; i < 4; ++i) {
                store_little_endian(pairs[indices >> (16 * i) & 255], symbols + 2 * i);
            }
        } else {
            for (unsigned i = 0; i < 8; ++i) symbols[i] = stage.symbols[indices >> (8 * i) & 255];
        }
    }
}

using LookUp = decltype(&look_up<1>);
constexpr std::array<LookUp, max_stage_bits> look_ups = {
    look_up<1>, look_up<2>, look_up<3>, look_up<4>, look_up<5>, look_up<6>, look_up<7>, look_up<8>};

bool decode_planes(const Stage& stage, const std::uint8_t* bytes, std::size_t superblocks,
                   const Lanes& lanes,
                   const std::array<const std::uint8_t*, max_suffixes>& suffixes,
                   const std::uint8_t* tail, const PlaneCursor& end, PlaneCursor& cursor,
                   std::uint8_t* to, Output output) noexcept {
    const auto roots = static_cast<std::size_t>(stage.planes);
    const auto all = static_cast<std::size_t>(stage.bits());
    const PairTable pairs = make_pairs(stage);
    const auto& [spread, deposits] = tables();
    Planes planes;
    std::array<std::uint8_t, superblock_symbols> joined;
    for (std::size_t s = 0; s < superblocks; ++s) {
        std::uint8_t* const symbols = output.pairs ? joined.data() : to;
        for (std::size_t d = 0; d < roots; ++d, bytes += plane_bytes) {
            std::copy_n(bytes, plane_bytes, planes[d].begin());
        }
        const Masks masks = masks_of(stage, planes, lanes);
        bool past_end = false;
        for (std::size_t l = 0; roots + l < all; ++l) {
            std::uint64_t& at = cursor.suffix_bits[l];
            at = deposit_suffix(deposits, suffixes[l], at, masks.alive[l], planes[roots + l]);
            past_end |= at > end.suffix_bits[l];
        }
        look_ups[all - 1](spread, stage, pairs, planes, symbols);
        for (std::size_t block = 0; stage.tail && block < plane_bytes; block += 8) {
            std::uint64_t later = 0;
            for (std::size_t i = 0; i < 8; ++i) {
                later |= std::uint64_t{masks.tail[places[block + i]]} << (8 * i);
            }
            for (; later != 0; later &= later - 1) {
                symbols[8 * block + static_cast<std::size_t>(std::countr_zero(later))] =
                    tail[cursor.tail++];
            }
        }
        if (past_end || cursor.tail > end.tail) return false;
        if (output.pairs) {
            for (const std::uint8_t pair : joined) {
                *to++ = pair & 15;
                *to++ = pair >> 4;
            }
        } else {
            to += superblock_symbols;
        }
    }
    return true;
}

}  // namespace

void install(dispatch::Level<Isa::scalar>, DecodeKernels& kernels) noexcept {
    kernels = {decode_planes};
}

}  // namespace tersor::huffman
