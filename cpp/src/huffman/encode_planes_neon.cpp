// NEON kernels that encode to the bit-sliced code, with tables where there is no `pext`.
#include "huffman/planes_neon.hpp"

#if TERSOR_ARM64

namespace tersor::huffman {
namespace {

/// compress[m]: the places of the ones of m.
constexpr auto compress = [] {
    std::array<std::array<std::uint8_t, 8>, 256> table{};
    for (unsigned m = 0; m < table.size(); ++m) {
        std::size_t next = 0;
        for (unsigned bit = 0; bit < 8; ++bit) {
            if ((m >> bit & 1U) != 0) table[m][next++] = static_cast<std::uint8_t>(bit);
        }
    }
    return table;
}();

/// A byte of a plane from lanes that are all ones or zero.
inline std::uint8_t byte_of(uint8x8_t lanes) noexcept {
    return vaddv_u8(vand_u8(lanes, vget_low_u8(lane_bits())));
}

/// Appends the symbols of a superblock whose bytes of `later` are all ones.
inline std::size_t append_tail(const std::uint8_t* symbols, const std::uint8_t* later,
                               std::uint8_t* tail, std::size_t size) noexcept {
    for (std::size_t i = 0; i < superblock_symbols; i += 8) {
        const std::uint8_t mask = byte_of(vld1_u8(later + i));
        vst1_u8(tail + size, vtbl1_u8(vld1_u8(symbols + i), vld1_u8(compress[mask].data())));
        size += static_cast<std::size_t>(std::popcount(mask));
    }
    return size;
}

/// `table_bits`: symbols are below 2^table_bits.
template <int table_bits>
void encode_stage(const Stage& stage, const std::uint8_t* symbols, std::size_t superblocks,
                  const Lanes& lanes, std::uint8_t* bytes,
                  const std::array<std::uint8_t*, max_suffixes>& suffixes, std::uint8_t* tail,
                  PlaneCursor& cursor) noexcept {
    const auto roots = static_cast<std::size_t>(stage.planes);
    const auto all = static_cast<std::size_t>(stage.bits());
    const uint8x16_t tail_index = vdupq_n_u8(stage.tail_index());
    Planes planes;
    std::array<std::uint8_t, superblock_symbols> later;
    for (std::size_t s = 0; s < superblocks; ++s, symbols += superblock_symbols) {
        for (std::size_t place = 0; place < plane_bytes; place += 2) {
            const uint8x16_t present = present_lanes(lanes, place);
            uint8x16_t index =
                look_up<table_bits>(stage.indices.data(), load_halves(symbols, place));
            index = vandq_u8(index, present);
            if (stage.tail) {
                store_halves(later.data(), place, vandq_u8(vceqq_u8(index, tail_index), present));
            }
            for (std::size_t d = all; d-- > 0; index = vshrq_n_u8(index, 1)) {
                const uint8x16_t ones = vtstq_u8(index, vdupq_n_u8(1));
                planes[d][place] = byte_of(vget_low_u8(ones));
                planes[d][place + 1] = byte_of(vget_high_u8(ones));
            }
        }
        if (stage.tail) cursor.tail = append_tail(symbols, later.data(), tail, cursor.tail);
        std::memcpy(bytes, planes.data(), roots * plane_bytes);
        bytes += roots * plane_bytes;
        if (stage.suffixes == 0) continue;
        const Masks masks = masks_of(stage, planes, lanes);
        for (std::size_t l = 0; roots + l < all; ++l) {
            std::uint64_t& at = cursor.suffix_bits[l];
            at = extract_suffix(planes[roots + l], masks.alive[l], suffixes[l], at);
        }
    }
}

void encode_planes(const Stage& stage, const std::uint8_t* symbols, std::size_t superblocks,
                   const Lanes& lanes, std::uint8_t* bytes,
                   const std::array<std::uint8_t*, max_suffixes>& suffixes, std::uint8_t* tail,
                   PlaneCursor& cursor) noexcept {
    const auto encode = stage.last_symbol < 16   ? encode_stage<4>
                        : stage.last_symbol < 64 ? encode_stage<6>
                                                 : encode_stage<8>;
    encode(stage, symbols, superblocks, lanes, bytes, suffixes, tail, cursor);
}

void join_pairs(const std::uint8_t* symbols, std::size_t count, std::uint8_t* pairs) noexcept {
    std::size_t i = 0;
    for (; i + width <= count; i += width) {
        const uint8x16x2_t two = vld2q_u8(symbols + 2 * i);
        vst1q_u8(pairs + i, vsliq_n_u8(two.val[0], two.val[1], 4));
    }
    encode_kernels(Isa::scalar).join_pairs(symbols + 2 * i, count - i, pairs + i);
}

}  // namespace

void install(dispatch::Level<Isa::neon>, EncodeKernels& kernels) noexcept {
    kernels.encode_planes = encode_planes;
    kernels.join_pairs = join_pairs;
}

}  // namespace tersor::huffman

#endif
