// AVX2 and BMI2 kernels of the plane code: the AVX-512 ones with half the width, where two swaps of
// bits transpose what the GF(2) product does there, and byte shuffles look up 16 symbols at a time.
#include "dispatch/architecture.hpp"
#include "huffman/kernels.hpp"
#include "huffman/plane_stages.hpp"

#if TERSOR_X86

#include <immintrin.h>

#include <cstring>

#include "dispatch/cpu_features.hpp"
#include "dispatch/target_avx2.hpp"

namespace tersor::huffman {
namespace {

/// expand[m]: for each of eight bytes the rank of its bit among the ones of m, or 0x80.
constexpr std::array<std::uint64_t, 256> make_expand() {
    std::array<std::uint64_t, 256> table{};
    for (unsigned m = 0; m < 256; ++m) {
        std::uint64_t rank = 0;
        for (unsigned i = 0; i < 8; ++i) {
            table[m] |= ((m >> i & 1U) != 0 ? rank++ : std::uint64_t{0x80}) << (8 * i);
        }
    }
    return table;
}
constexpr std::array<std::uint64_t, 256> expand = make_expand();

inline __m256i load(const void* p) noexcept {
    return _mm256_loadu_si256(static_cast<const __m256i*>(p));
}
inline void store(void* p, __m256i v) noexcept { _mm256_storeu_si256(static_cast<__m256i*>(p), v); }
inline __m256i load_two(const void* low, const void* high) noexcept {
    const __m128d half = _mm_load_sd(static_cast<const double*>(low));
    return _mm256_castsi128_si256(
        _mm_castpd_si128(_mm_loadh_pd(half, static_cast<const double*>(high))));
}

/// Four rows of a block of eight in each doubleword, the top one first, to indices: bytes 0 to 3
/// have those of symbols 0 to 3 in their low nibbles and of symbols 4 to 7 in their high ones.
inline __m256i transposed(__m256i rows) noexcept {
    const __m256i reversed = _mm256_setr_epi8(3, 2, 1, 0, 7, 6, 5, 4, 11, 10, 9, 8, 15, 14, 13, 12,
                                              3, 2, 1, 0, 7, 6, 5, 4, 11, 10, 9, 8, 15, 14, 13, 12);
    __m256i v = _mm256_shuffle_epi8(rows, reversed);
    __m256i t = _mm256_and_si256(_mm256_xor_si256(v, _mm256_srli_epi32(v, 7)),
                                 _mm256_set1_epi32(0x00aa00aa));
    v = _mm256_xor_si256(v, _mm256_xor_si256(t, _mm256_slli_epi32(t, 7)));
    t = _mm256_and_si256(_mm256_xor_si256(v, _mm256_srli_epi32(v, 14)),
                         _mm256_set1_epi32(0x0000cccc));
    return _mm256_xor_si256(v, _mm256_xor_si256(t, _mm256_slli_epi32(t, 14)));
}

/// The rows of four bits to the indices of eight half vectors: halves[2 i] the even blocks of the
/// groups of one parity and half, halves[2 i + 1] the odd ones.
inline void gather_nibbles(const __m256i* row, __m256i* halves) noexcept {
    const __m256i nibble = _mm256_set1_epi8(15);
    const __m256i a_low = _mm256_unpacklo_epi8(row[3], row[2]);
    const __m256i a_high = _mm256_unpackhi_epi8(row[3], row[2]);
    const __m256i b_low = _mm256_unpacklo_epi8(row[1], row[0]);
    const __m256i b_high = _mm256_unpackhi_epi8(row[1], row[0]);
    const __m256i quads[4] = {
        _mm256_unpacklo_epi16(a_low, b_low), _mm256_unpackhi_epi16(a_low, b_low),
        _mm256_unpacklo_epi16(a_high, b_high), _mm256_unpackhi_epi16(a_high, b_high)};
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
        const __m256i v = transposed(quads[i]);
        const __m256i first = _mm256_and_si256(v, nibble);
        const __m256i second = _mm256_and_si256(_mm256_srli_epi16(v, 4), nibble);
        const __m256i blocks_01 = _mm256_unpacklo_epi32(first, second);
        const __m256i blocks_23 = _mm256_unpackhi_epi32(first, second);
        halves[2 * i] = _mm256_unpacklo_epi64(blocks_01, blocks_23);
        halves[2 * i + 1] = _mm256_unpackhi_epi64(blocks_01, blocks_23);
    }
}

template <int bits>
inline __m256i look_up(const std::uint8_t* symbols, __m256i indices) noexcept {
    const auto part = [&](int i) noexcept {
        const __m256i table = _mm256_broadcastsi128_si256(
            _mm_loadu_si128(reinterpret_cast<const __m128i*>(symbols + 16 * i)));
        // A shuffle takes the low nibble of an index whose top bit is zero.
        return _mm256_shuffle_epi8(table, _mm256_and_si256(indices, _mm256_set1_epi8(15)));
    };
    if constexpr (bits <= 4) {
        return part(0);
    } else if constexpr (bits <= 6) {
        const __m256i bit_4 = _mm256_slli_epi16(indices, 3);
        const __m256i low = _mm256_blendv_epi8(part(0), part(1), bit_4);
        if constexpr (bits == 5) return low;
        const __m256i high = _mm256_blendv_epi8(part(2), part(3), bit_4);
        return _mm256_blendv_epi8(low, high, _mm256_slli_epi16(indices, 2));
    } else {
        alignas(32) std::uint8_t bytes[32];
        _mm256_store_si256(reinterpret_cast<__m256i*>(bytes), indices);
        for (std::uint8_t& byte : bytes) byte = symbols[byte];
        return _mm256_load_si256(reinterpret_cast<const __m256i*>(bytes));
    }
}

/// Puts the next symbols of the tail where the masks of 32 symbols have ones.
inline __m256i merge_tail(__m256i found, const std::uint8_t* later, std::size_t first_block,
                          const std::uint8_t*& next) noexcept {
    const std::uint8_t* from[4];
    std::uint64_t ranks[4];
#pragma GCC unroll 4
    for (std::size_t i = 0; i < 4; ++i) {
        const std::uint8_t mask = later[places[first_block + i]];
        from[i] = next;
        ranks[i] = expand[mask] + (i % 2 == 0 ? 0 : 0x0808080808080808ULL);
        next += __builtin_popcount(mask);
    }
    const __m256i source = _mm256_inserti128_si256(
        load_two(from[0], from[1]), _mm256_castsi256_si128(load_two(from[2], from[3])), 1);
    const __m256i rank = load(ranks);
    return _mm256_blendv_epi8(_mm256_shuffle_epi8(source, rank), found, rank);
}

template <int planes, int levels, bool has_tail>
bool decode_stage(const Stage& stage, const std::uint8_t* bytes, std::size_t superblocks,
                  const Lanes& lanes, const std::array<const std::uint8_t*, max_levels>& level,
                  const std::uint8_t* tail, const PlaneCursor& end, PlaneCursor& cursor,
                  std::uint8_t* symbols, bool streaming) noexcept {
    constexpr int bits = planes + levels;
    constexpr std::size_t delay = levels > 0 ? lag : 0;
    alignas(64) std::uint64_t alive_ring[8];
    alignas(64) std::uint64_t level_ring[levels > 0 ? levels : 1][ring_size][8];
    alignas(64) std::uint64_t tail_ring[ring_size][8];
    __m256i clear_digits[planes];  // all ones where short_roots has a zero
    for (int d = 0; d < planes; ++d) {
        const bool one = (stage.short_roots >> (planes - 1 - d) & 1U) != 0;
        clear_digits[d] = _mm256_set1_epi64x(one ? 0 : -1);
    }
    std::uint64_t at = cursor.level_bits;
    const std::uint8_t* next = tail + cursor.tail;
    const std::uint8_t* const tail_end = tail + end.tail;
    const std::uint8_t* front = bytes;
    const std::uint8_t* back = bytes;

    const auto prepare = [&](std::size_t slot) noexcept {
#pragma GCC unroll 2
        for (int half = 0; half < 2; ++half) {
            const __m256i valid = load(lanes.data() + 4 * half);
            __m256i at_least = _mm256_set1_epi64x(-1);
            __m256i ones = valid;
#pragma GCC unroll 8
            for (int d = planes - 1; d >= 0; --d) {
                const __m256i plane = load(front + 64 * d + 32 * half);
                ones = _mm256_and_si256(ones, plane);
                // digit ? at_least & plane : at_least | plane
                at_least = _mm256_or_si256(
                    _mm256_and_si256(at_least, plane),
                    _mm256_and_si256(clear_digits[d], _mm256_or_si256(at_least, plane)));
            }
            if constexpr (has_tail) {
                store(tail_ring[slot] + 4 * half, ones);
                at_least = _mm256_andnot_si256(ones, at_least);
            }
            if constexpr (levels > 0) {
                store(alive_ring + 4 * half, _mm256_and_si256(at_least, valid));
            }
        }
        front += plane_bytes * planes;
        if constexpr (levels > 0) {
#pragma GCC unroll 8
            for (int g = 0; g < 8; ++g) {
                const std::uint64_t alive = alive_ring[g];
                const auto count = static_cast<unsigned>(__builtin_popcountll(alive));
                const auto shift = static_cast<unsigned>(at % 8);
#pragma GCC unroll 2
                for (int l = 0; l < levels; ++l) {
                    const std::uint8_t* p = level[static_cast<std::size_t>(l)] + at / 8;
                    std::uint64_t window;
                    std::memcpy(&window, p, 8);
                    window >>= shift;
                    if (count > 57) window |= (std::uint64_t{p[8]} << 1) << (63 - shift);
                    level_ring[l][slot][g] = _pdep_u64(window, alive);
                }
                at += count;
            }
        }
    };
    const auto finish = [&](std::size_t slot) noexcept {
        const auto* later = reinterpret_cast<const std::uint8_t*>(tail_ring[slot]);
        __m256i indices[2][8];
#pragma GCC unroll 2
        for (int half = 0; half < 2; ++half) {
            __m256i rows[8];
#pragma GCC unroll 8
            for (int b = 0; b < 8; ++b) rows[b] = _mm256_setzero_si256();
#pragma GCC unroll 8
            for (int d = 0; d < planes; ++d) {
                rows[bits - 1 - d] = load(back + 64 * d + 32 * half);
            }
#pragma GCC unroll 2
            for (int l = 0; l < levels; ++l) {
                rows[levels - 1 - l] = load(level_ring[l][slot] + 4 * half);
            }
            gather_nibbles(rows, indices[half]);
            if constexpr (bits > 4) {
                __m256i high[8];
                gather_nibbles(rows + 4, high);
#pragma GCC unroll 8
                for (int v = 0; v < 8; ++v) {
                    indices[half][v] =
                        _mm256_or_si256(indices[half][v], _mm256_slli_epi16(high[v], 4));
                }
            }
        }
        back += plane_bytes * planes;
#pragma GCC unroll 8
        for (std::size_t v = 0; v < 8; ++v) {
#pragma GCC unroll 2
            for (std::size_t half = 0; half < 2; ++half) {
                __m256i found = look_up<bits>(stage.symbols.data(), indices[half][v]);
                if constexpr (has_tail) {
                    found = merge_tail(found, later, 8 * v + 4 * half, next);
                }
                auto* to = reinterpret_cast<__m256i*>(symbols + 64 * v + 32 * half);
                if (streaming) {
                    _mm256_stream_si256(to, found);
                } else {
                    store(to, found);
                }
            }
        }
        symbols += superblock_symbols;
    };
    for (std::size_t s = 0; s < superblocks + delay; ++s) {
        if (s < superblocks) {
            prepare(s % ring_size);
            if (levels > 0 && at > end.level_bits) return false;
        }
        if (s >= delay) {
            finish((s - delay) % ring_size);
            if (has_tail && next > tail_end) return false;
        }
    }
    if (streaming) _mm_sfence();  // streamed stores are not ordered by what joins threads
    cursor = {at, static_cast<std::size_t>(next - tail)};
    return true;
}

bool decode_planes(const Stage& stage, const std::uint8_t* bytes, std::size_t superblocks,
                   const Lanes& lanes, const std::array<const std::uint8_t*, max_levels>& levels,
                   const std::uint8_t* tail, const PlaneCursor& end, PlaneCursor& cursor,
                   std::uint8_t* symbols, bool streaming) noexcept {
    const auto decode = with_shape(stage, [&]<int p, int l>() noexcept {
        return stage.tail ? decode_stage<p, l, true> : decode_stage<p, l, false>;
    });
    return decode(stage, bytes, superblocks, lanes, levels, tail, end, cursor, symbols, streaming);
}

}  // namespace

void install_avx2(Kernels& kernels) noexcept {
    // Where `pdep` is microcode the portable deposit is faster.
    if (!dispatch::slow_bit_deposit()) kernels.decode_planes = decode_planes;
}

}  // namespace tersor::huffman

#include "dispatch/target_end.hpp"

#else

namespace tersor::huffman {
void install_avx2(Kernels& /*kernels*/) noexcept {}
}  // namespace tersor::huffman

#endif
