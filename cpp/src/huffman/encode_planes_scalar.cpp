// Portable kernels that encode to the bit-sliced code, and what the fast ones must agree with.
#include <algorithm>
#include <bit>

#include "huffman/kernels.hpp"
#include "huffman/plane_bytes.hpp"
#include "support/little_endian.hpp"

namespace tersor::huffman {
namespace {

using support::store_little_endian;

void encode_planes(const Stage& stage, const std::uint8_t* symbols, std::size_t superblocks,
                   const Lanes& lanes, std::uint8_t* bytes,
                   const std::array<std::uint8_t*, max_suffixes>& suffixes, std::uint8_t* tail,
                   PlaneCursor& cursor) noexcept {
    const auto roots = static_cast<std::size_t>(stage.planes);
    const auto all = static_cast<std::size_t>(stage.bits());
    Planes planes;
    Bytes present;
    for (std::size_t g = 0; g < superblock_groups; ++g) {
        store_little_endian(lanes[g], present.data() + 8 * g);
    }
    for (std::size_t s = 0; s < superblocks; ++s, symbols += superblock_symbols) {
        for (std::size_t block = 0; block < plane_bytes; ++block) {
            const std::size_t place = places[block];
            std::uint64_t indices = 0;
            for (std::size_t i = 0; i < 8; ++i) {
                const std::uint8_t symbol = symbols[8 * block + i];
                const std::uint8_t index = stage.indices[symbol];
                const unsigned here = present[place] >> i & 1U;
                indices |= std::uint64_t{here * index} << (8 * i);
                tail[cursor.tail] = symbol;
                cursor.tail += stage.tail && index == stage.tail_index() ? here : 0U;
            }
            for (std::size_t d = 0; d < all; ++d) {
                // The product has bit d of byte i as bit i of its top byte.
                const std::uint64_t bit = indices >> (all - 1 - d) & 0x0101010101010101;
                planes[d][place] = static_cast<std::uint8_t>(bit * 0x0102040810204080 >> 56);
            }
        }
        for (std::size_t d = 0; d < roots; ++d, bytes += plane_bytes) {
            std::copy_n(planes[d].begin(), plane_bytes, bytes);
        }
        if (stage.suffixes == 0) continue;
        const Masks masks = masks_of(stage, planes, lanes);
        for (std::size_t l = 0; roots + l < all; ++l) {
            std::uint64_t& at = cursor.suffix_bits[l];
            at = extract_suffix(planes[roots + l], masks.alive[l], suffixes[l], at);
        }
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

void install(dispatch::Level<Isa::scalar>, EncodeKernels& kernels) noexcept {
    kernels = {encode_planes, join_pairs, count_symbols};
}

const EncodeKernels& encode_kernels(Isa isa) noexcept {
    return dispatch::KernelTable<EncodeKernels, Isa::scalar, Isa::avx2, Isa::avx512, Isa::neon>::at(
        isa);
}

}  // namespace tersor::huffman
