// The kernels of prefix coding, one column per instruction-set level.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "dispatch/kernel_table.hpp"
#include "huffman/bit_sliced_code.hpp"
#include "tersor/isa.hpp"

namespace tersor::huffman {

/// Symbols of one group: a plane of it is one 64-bit number.
inline constexpr std::size_t group_symbols = 64;
/// Groups of one superblock, which keeps its planes one after the other, 64 bytes each.
inline constexpr std::size_t superblock_groups = 8;
inline constexpr std::size_t superblock_symbols = group_symbols * superblock_groups;
inline constexpr std::size_t plane_bytes = superblock_symbols / 8;

/// Bytes that kernels may read past the end of the suffixes and of the tail, and overwrite there
/// while encoding.
inline constexpr std::size_t suffix_slack = 80;
inline constexpr std::size_t tail_slack = superblock_symbols + 64;

/// The place in a plane (a byte of its 64) where the eight symbols from 8 * block on have their
/// bits. The order is the one in which unpacking bytes and words of vectors leaves them, so that
/// no kernel spends instructions on it; `group = place / 8`.
[[nodiscard]] constexpr std::size_t place_of_block(std::size_t block) noexcept {
    const std::size_t vector = block / 8, part = block % 8;  // the output vector of 64 symbols
    const std::size_t group = 2 * (part / 2) + vector / 4;
    return group * 8 + 4 * (vector / 2 % 2) + 2 * (part % 2) + vector % 2;
}

/// The place of each block of a superblock.
alignas(64) inline constexpr auto places = [] {
    std::array<std::uint8_t, plane_bytes> table{};
    for (std::size_t block = 0; block < table.size(); ++block) {
        table[block] = static_cast<std::uint8_t>(place_of_block(block));
    }
    return table;
}();

/// Which lanes of each group hold a symbol; all of them but in a block's last superblock.
using Lanes = std::array<std::uint64_t, superblock_groups>;
inline constexpr Lanes all_lanes = {~0ULL, ~0ULL, ~0ULL, ~0ULL, ~0ULL, ~0ULL, ~0ULL, ~0ULL};

/// How far the streams beside the planes have been read or written.
struct PlaneCursor {
    std::array<std::uint64_t, max_suffixes> suffix_bits{};
    std::size_t tail = 0;  // symbols
};

/// How decoded symbols are stored.
struct Output {
    bool streaming = false;  // past the caches; where they go to is aligned to 64 bytes
    bool pairs = false;      // as two symbols each: symbol % 16, symbol / 16
};

/// Decodes `superblocks` superblocks of one stage from planes (stage.planes * 64 bytes each),
/// suffixes, and the symbols of the later stages, to 512 symbols or pairs each. Stops, and returns
/// false, as soon as the cursor stands past `end`.
using DecodePlanes = bool (*)(const Stage& stage, const std::uint8_t* planes,
                              std::size_t superblocks, const Lanes& lanes,
                              const std::array<const std::uint8_t*, max_suffixes>& suffixes,
                              const std::uint8_t* tail, const PlaneCursor& end, PlaneCursor& cursor,
                              std::uint8_t* symbols, Output output) noexcept;

/// The inverse: symbols that have no lane are ignored. The bits of a suffix before the cursor are
/// kept.
using EncodePlanes = void (*)(const Stage& stage, const std::uint8_t* symbols,
                              std::size_t superblocks, const Lanes& lanes, std::uint8_t* planes,
                              const std::array<std::uint8_t*, max_suffixes>& suffixes,
                              std::uint8_t* tail, PlaneCursor& cursor) noexcept;

/// pairs[i] = symbols[2 i] + 16 * symbols[2 i + 1].
using JoinPairs = void (*)(const std::uint8_t* symbols, std::size_t count,
                           std::uint8_t* pairs) noexcept;

/// Adds how often each symbol occurs.
using CountSymbols = void (*)(const std::uint8_t* symbols, std::size_t count,
                              std::uint64_t* histogram) noexcept;

/// What the reader of a file needs.
struct DecodeKernels {
#define TERSOR_KERNEL(name, type) type name = nullptr;
#include "huffman/decode_kernels.def"
#undef TERSOR_KERNEL
};

/// What only the writer needs: a runtime that reads is linked without them.
struct EncodeKernels {
#define TERSOR_KERNEL(name, type) type name = nullptr;
#include "huffman/encode_kernels.def"
#undef TERSOR_KERNEL
};

void install(dispatch::Level<Isa::scalar>, DecodeKernels& kernels) noexcept;
void install(dispatch::Level<Isa::avx2>, DecodeKernels& kernels) noexcept;
void install(dispatch::Level<Isa::avx512>, DecodeKernels& kernels) noexcept;
void install(dispatch::Level<Isa::neon>, DecodeKernels& kernels) noexcept;

void install(dispatch::Level<Isa::scalar>, EncodeKernels& kernels) noexcept;
void install(dispatch::Level<Isa::avx2>, EncodeKernels& kernels) noexcept;
void install(dispatch::Level<Isa::avx512>, EncodeKernels& kernels) noexcept;
void install(dispatch::Level<Isa::neon>, EncodeKernels& kernels) noexcept;

/// The kernels of a level.
[[nodiscard]] inline const DecodeKernels& decode_kernels(Isa isa) noexcept {
    return dispatch::KernelTable<DecodeKernels, Isa::scalar, Isa::avx2, Isa::avx512, Isa::neon>::at(
        isa);
}
/// Not inline: whoever only reads must not need what writes.
[[nodiscard]] const EncodeKernels& encode_kernels(Isa isa) noexcept;

}  // namespace tersor::huffman
