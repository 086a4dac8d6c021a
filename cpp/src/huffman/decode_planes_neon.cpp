// NEON kernel that decodes the bit-sliced code. There is no `pdep`: the rank of a lane among those
// that go on, a sum over the lanes before it, looks its suffix bit up among the next 16, and
// likewise its symbol in the tail.
#include "huffman/planes_neon.hpp"

#if TERSOR_ARM64

namespace tersor::huffman {
namespace {

/// How many lanes up to each one are all ones.
inline uint8x16_t ranks(uint8x16_t lanes) noexcept {
    const uint8x16_t zero = vdupq_n_u8(0);
    uint8x16_t sums = vandq_u8(lanes, vdupq_n_u8(1));
    sums = vaddq_u8(sums, vextq_u8(zero, sums, 15));
    sums = vaddq_u8(sums, vextq_u8(zero, sums, 14));
    sums = vaddq_u8(sums, vextq_u8(zero, sums, 12));
    return vaddq_u8(sums, vextq_u8(zero, sums, 8));
}

/// item[rank - 1] in each lane, for 16 items; nothing where no lane has been all ones yet.
inline uint8x16_t item_of_rank(uint8x16_t items, uint8x16_t rank) noexcept {
    return vqtbl1q_u8(items, vsubq_u8(rank, vdupq_n_u8(1)));
}

/// All ones in the first lane where the first of the bits from `at` on is one, and so on.
inline uint8x16_t next_bits(const std::uint8_t* suffix, std::uint64_t at) noexcept {
    std::uint32_t window;
    std::memcpy(&window, suffix + at / 8, sizeof window);
    const auto bits = static_cast<std::uint16_t>(window >> (at % 8));
    return lanes_of(vreinterpretq_u8_u16(vdupq_n_u16(bits)), 0);
}

/// Puts the next symbols of the tail where `later` is all ones.
inline const std::uint8_t* merge_tail(const std::uint8_t* later, const std::uint8_t* next,
                                      std::uint8_t* symbols) noexcept {
    for (std::size_t i = 0; i < superblock_symbols; i += width) {
        const uint8x16_t lanes = vld1q_u8(later + i);
        const uint8x16_t rank = ranks(lanes);
        const uint8x16_t from_tail = item_of_rank(vld1q_u8(next), rank);
        vst1q_u8(symbols + i, vbslq_u8(lanes, from_tail, vld1q_u8(symbols + i)));
        next += vgetq_lane_u8(rank, 15);
    }
    return next;
}

/// The pairs of a superblock to two symbols each.
inline void split_superblock(const std::uint8_t* pairs, std::uint8_t* symbols) noexcept {
    for (std::size_t i = 0; i < superblock_symbols; i += width) {
        const uint8x16_t pair = vld1q_u8(pairs + i);
        vst2q_u8(symbols + 2 * i, {{vandq_u8(pair, vdupq_n_u8(15)), vshrq_n_u8(pair, 4)}});
    }
}

template <int planes, int suffixes, bool has_tail>
bool decode_stage(const Stage& stage, const std::uint8_t* bytes, std::size_t superblocks,
                  const Lanes& lanes, const std::array<const std::uint8_t*, max_suffixes>& suffix,
                  const std::uint8_t* tail, const PlaneCursor& end, PlaneCursor& cursor,
                  std::uint8_t* symbols, Output output) noexcept {
    const bool partial = lanes != all_lanes;
    const uint8x16_t tail_root = vdupq_n_u8(static_cast<std::uint8_t>(stage.roots() - 1));
    std::array<std::uint64_t, max_suffixes> at = cursor.suffix_bits;
    const std::uint8_t* next = tail + cursor.tail;
    std::array<std::uint8_t, superblock_symbols> joined;
    std::array<std::uint8_t, superblock_symbols> later;
    for (std::size_t s = 0; s < superblocks; ++s, bytes += plane_bytes * planes) {
        std::uint8_t* const to = output.pairs ? joined.data() : symbols;
        for (std::size_t place = 0; place < plane_bytes; place += 2) {
            const std::size_t first = place / width * width;
            uint8x16_t index = vdupq_n_u8(0);
            for (std::size_t d = 0; d < planes; ++d) {
                const uint8x16_t plane = vld1q_u8(bytes + d * plane_bytes + first);
                const uint8x16_t ones = lanes_of(plane, (place - first) / 2);
                index = vsubq_u8(vaddq_u8(index, index), ones);
            }
            const uint8x16_t root = index;
            uint8x16_t goes_on = partial ? present_lanes(lanes, place) : vdupq_n_u8(255);
            if constexpr (has_tail) {
                const uint8x16_t in_tail = vandq_u8(vceqq_u8(root, tail_root), goes_on);
                goes_on = vbicq_u8(goes_on, in_tail);
                store_halves(later.data(), place, in_tail);
            }
            uint8x16_t rank = vdupq_n_u8(0);
            for (std::size_t l = 0; l < static_cast<std::size_t>(suffixes); ++l) {
                if (!stage.like_the_suffix_before(l)) {
                    const auto first_root = static_cast<std::uint8_t>(stage.suffix_roots[l]);
                    goes_on = vandq_u8(goes_on, vcgeq_u8(root, vdupq_n_u8(first_root)));
                    rank = ranks(goes_on);
                }
                const uint8x16_t bit =
                    vandq_u8(item_of_rank(next_bits(suffix[l], at[l]), rank), goes_on);
                index = vsubq_u8(vaddq_u8(index, index), bit);
                at[l] += vgetq_lane_u8(rank, 15);
            }
            store_halves(to, place, look_up<planes + suffixes>(stage.symbols.data(), index));
        }
        for (std::size_t l = 0; l < static_cast<std::size_t>(suffixes); ++l) {
            if (at[l] > end.suffix_bits[l]) return false;
        }
        if constexpr (has_tail) {
            next = merge_tail(later.data(), next, to);
            if (next > tail + end.tail) return false;
        }
        if (output.pairs) {
            split_superblock(joined.data(), symbols);
            symbols += superblock_symbols;
        }
        symbols += superblock_symbols;
    }
    cursor = {at, static_cast<std::size_t>(next - tail)};
    return true;
}

bool decode_planes(const Stage& stage, const std::uint8_t* bytes, std::size_t superblocks,
                   const Lanes& lanes,
                   const std::array<const std::uint8_t*, max_suffixes>& suffixes,
                   const std::uint8_t* tail, const PlaneCursor& end, PlaneCursor& cursor,
                   std::uint8_t* symbols, Output output) noexcept {
    const auto decode = with_shape(stage, [&]<int p, int l>() noexcept {
        return stage.tail ? decode_stage<p, l, true> : decode_stage<p, l, false>;
    });
    return decode(stage, bytes, superblocks, lanes, suffixes, tail, end, cursor, symbols, output);
}

}  // namespace

void install(dispatch::Level<Isa::neon>, DecodeKernels& kernels) noexcept {
    kernels.decode_planes = decode_planes;
}

}  // namespace tersor::huffman

#endif
