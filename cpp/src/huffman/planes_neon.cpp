// NEON kernels of the plane code: 16 symbols at a time in the order of places, two bytes of each
// plane. There is no `pdep`: the rank of a lane among those that go on, a sum over the lanes before
// it, looks its level bit up among the next 16, and likewise its symbol in the tail.
#include "dispatch/architecture.hpp"
#include "huffman/kernels.hpp"
#include "huffman/plane_bytes.hpp"
#include "huffman/plane_stages.hpp"

#if TERSOR_ARM64

#include <arm_neon.h>

#include <cstring>

namespace tersor::huffman {
namespace {

constexpr std::size_t width = 16;

/// Where in a superblock the symbols of each place begin; those of an odd place, 64 behind those of
/// the place before.
constexpr std::array<std::uint16_t, plane_bytes> make_symbols_of_place() {
    std::array<std::uint16_t, plane_bytes> table{};
    for (std::size_t block = 0; block < plane_bytes; ++block) {
        table[places[block]] = static_cast<std::uint16_t>(8 * block);
    }
    return table;
}
constexpr std::array<std::uint16_t, plane_bytes> symbols_of_place = make_symbols_of_place();
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
inline uint8x16_t next_bits(const std::uint8_t* level, std::uint64_t at) noexcept {
    std::uint32_t window;
    std::memcpy(&window, level + at / 8, sizeof window);
    const auto bits = static_cast<std::uint16_t>(window >> (at % 8));
    return lanes_of(vreinterpretq_u8_u16(vdupq_n_u16(bits)), 0);
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

template <int planes, int levels, bool has_tail>
bool decode_stage(const Stage& stage, const std::uint8_t* bytes, std::size_t superblocks,
                  const Lanes& lanes, const std::array<const std::uint8_t*, max_levels>& level,
                  const std::uint8_t* tail, const PlaneCursor& end, PlaneCursor& cursor,
                  std::uint8_t* symbols, Output output) noexcept {
    const bool partial = lanes != all_lanes;
    const uint8x16_t tail_root = vdupq_n_u8(static_cast<std::uint8_t>(stage.roots() - 1));
    std::array<std::uint64_t, max_levels> at = cursor.level_bits;
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
            for (std::size_t l = 0; l < static_cast<std::size_t>(levels); ++l) {
                if (!stage.like_the_level_before(l)) {
                    const auto first_root = static_cast<std::uint8_t>(stage.level_roots[l]);
                    goes_on = vandq_u8(goes_on, vcgeq_u8(root, vdupq_n_u8(first_root)));
                    rank = ranks(goes_on);
                }
                const uint8x16_t bit =
                    vandq_u8(item_of_rank(next_bits(level[l], at[l]), rank), goes_on);
                index = vsubq_u8(vaddq_u8(index, index), bit);
                at[l] += vgetq_lane_u8(rank, 15);
            }
            store_halves(to, place, look_up<planes + levels>(stage.symbols.data(), index));
        }
        for (std::size_t l = 0; l < static_cast<std::size_t>(levels); ++l) {
            if (at[l] > end.level_bits[l]) return false;
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
                   const Lanes& lanes, const std::array<const std::uint8_t*, max_levels>& levels,
                   const std::uint8_t* tail, const PlaneCursor& end, PlaneCursor& cursor,
                   std::uint8_t* symbols, Output output) noexcept {
    const auto decode = with_shape(stage, [&]<int p, int l>() noexcept {
        return stage.tail ? decode_stage<p, l, true> : decode_stage<p, l, false>;
    });
    return decode(stage, bytes, superblocks, lanes, levels, tail, end, cursor, symbols, output);
}

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
                  const std::array<std::uint8_t*, max_levels>& levels, std::uint8_t* tail,
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
        if (stage.levels == 0) continue;
        const Masks masks = masks_of(stage, planes, lanes);
        for (std::size_t l = 0; roots + l < all; ++l) {
            std::uint64_t& at = cursor.level_bits[l];
            at = extract_level(planes[roots + l], masks.alive[l], levels[l], at);
        }
    }
}

void encode_planes(const Stage& stage, const std::uint8_t* symbols, std::size_t superblocks,
                   const Lanes& lanes, std::uint8_t* bytes,
                   const std::array<std::uint8_t*, max_levels>& levels, std::uint8_t* tail,
                   PlaneCursor& cursor) noexcept {
    const auto encode = stage.last_symbol < 16   ? encode_stage<4>
                        : stage.last_symbol < 64 ? encode_stage<6>
                                                 : encode_stage<8>;
    encode(stage, symbols, superblocks, lanes, bytes, levels, tail, cursor);
}

void join_pairs(const std::uint8_t* symbols, std::size_t count, std::uint8_t* pairs) noexcept {
    std::size_t i = 0;
    for (; i + width <= count; i += width) {
        const uint8x16x2_t two = vld2q_u8(symbols + 2 * i);
        vst1q_u8(pairs + i, vsliq_n_u8(two.val[0], two.val[1], 4));
    }
    kernels(Isa::scalar).join_pairs(symbols + 2 * i, count - i, pairs + i);
}

}  // namespace

void install_neon(Kernels& kernels) noexcept {
    kernels.decode_planes = decode_planes;
    kernels.encode_planes = encode_planes;
    kernels.join_pairs = join_pairs;
}

}  // namespace tersor::huffman

#else

namespace tersor::huffman {
void install_neon(Kernels& /*kernels*/) noexcept {}
}  // namespace tersor::huffman

#endif
