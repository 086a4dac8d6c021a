// AVX-512 kernels of the bit-sliced code. Why they are fast: a superblock of 512 symbols is decoded
// by about twelve instructions a group of 64. The planes of eight groups fill a register, so which
// words go on, and which belong to later stages, is one ternary logic operation a plane for all
// eight; only `pdep`, which spreads the suffix bits, works a group at a time. Unpacking bytes and
// words leaves eight rows of bits side by side, one GF(2) product transposes them to eight indices,
// and a byte permutation is the look-up. The suffixes pass through memory: `lag` superblocks lie
// between their scalar stores and the vector load, so that it finds them in the cache.
//
// Bottleneck: vector operations and `pdep` in equal parts, one `pdep` a cycle. Of 24 ns for a
// superblock of three planes and one suffix the vectors take 13, the suffix bits 11.
#include "huffman/planes_avx512.hpp"

#if TERSOR_AVX512

#include <algorithm>
#include <cstring>

#include "dispatch/target_avx512.hpp"

namespace tersor::huffman {
namespace {

/// Which lanes have a root of at least a number; `digits[d]` is all ones where the number has a one
/// in the place of plane d.
template <int planes>
inline __m512i at_least(const __m512i* plane, const __m512i* digits) noexcept {
    __m512i result = _mm512_set1_epi64(-1);
#pragma GCC unroll 8
    for (int d = planes - 1; d >= 0; --d) {
        // digit ? result & plane : result | plane
        result = _mm512_ternarylogic_epi64(result, plane[d], digits[d], 0xd4);
    }
    return result;
}

template <int planes>
inline __m512i all_ones(const __m512i* plane) noexcept {
    __m512i result = plane[0];
#pragma GCC unroll 8
    for (int d = 1; d < planes; ++d) result = _mm512_and_si512(result, plane[d]);
    return result;
}

/// rows[b] is the plane of bit b of the indices; indices[v] becomes the vector of 64 indices that
/// stands at place v of the superblock. With up to four bits there is rubbish above them.
template <int bits>
inline void gather_indices(const __m512i* rows, __m512i* indices) noexcept {
    const __m512i zero = _mm512_setzero_si512();
    const auto row = [&](int b) noexcept { return b < bits ? rows[b] : zero; };
    // The four rows of bits 3 to 0: for each parity of the group and half of its bytes one vector
    // of doublewords, each with the rows of one block of eight symbols.
    const auto quads = [&](int top, __m512i* out) noexcept {
        const __m512i a_low = _mm512_unpacklo_epi8(row(top), row(top - 1));
        const __m512i a_high = _mm512_unpackhi_epi8(row(top), row(top - 1));
        const __m512i b_low = _mm512_unpacklo_epi8(row(top - 2), row(top - 3));
        const __m512i b_high = _mm512_unpackhi_epi8(row(top - 2), row(top - 3));
        out[0] = _mm512_unpacklo_epi16(a_low, b_low);
        out[1] = _mm512_unpackhi_epi16(a_low, b_low);
        out[2] = _mm512_unpacklo_epi16(a_high, b_high);
        out[3] = _mm512_unpackhi_epi16(a_high, b_high);
    };
    __m512i low[4];
    quads(3, low);
    if constexpr (bits <= 4) {
#pragma GCC unroll 4
        for (int i = 0; i < 4; ++i) {
            const __m512i two = transposed(low[i]);  // two blocks' indices in each byte
            indices[2 * i] = _mm512_srli_epi16(two, 4);
            indices[2 * i + 1] = two;
        }
    } else {
        __m512i high[4];
        quads(7, high);
#pragma GCC unroll 4
        for (int i = 0; i < 4; ++i) {
            // Doublewords 0 and 2, then 1 and 3, each beside its lower half.
            const __m512i even = _mm512_mask_shuffle_epi32(high[i], 0xaaaa, low[i],
                                                           static_cast<_MM_PERM_ENUM>(0xa0));
            const __m512i odd = _mm512_mask_shuffle_epi32(low[i], 0x5555, high[i],
                                                          static_cast<_MM_PERM_ENUM>(0xf5));
            indices[2 * i] = transposed(even);
            indices[2 * i + 1] = transposed(odd);
        }
    }
}

/// Pairs to two symbols each.
inline __m512i split(__m256i pairs) noexcept {
    const __m512i words = _mm512_cvtepu8_epi16(pairs);
    // (words | words << 4) & 15 in each byte
    return _mm512_ternarylogic_epi64(words, _mm512_slli_epi16(words, 4), _mm512_set1_epi8(15),
                                     0xa8);
}

/// Bytes from which on planes and suffixes are fetched beforehand: the processor's own fetching
/// stops at each page, and loses the time of a memory access there.
constexpr std::size_t planes_ahead = 4096;
constexpr std::size_t suffixes_ahead = 1024;

inline void fetch(const std::uint8_t* bytes) noexcept {
    _mm_prefetch(reinterpret_cast<const char*>(bytes), _MM_HINT_T0);
}

/// A value kept in a register: GCC would rather load it for each of its uses, which is slower.
inline std::uint64_t loaded_once(std::uint64_t value) noexcept {
    __asm__("" : "+r"(value));
    return value;
}

/// `pairs` is a template's parameter as a branch at each store would cost all others a twentieth of
/// their speed. Three steps, each behind the one before, so that what one leaves in memory has
/// reached the cache when the next loads it: which words go on; their suffix bits,
/// `lag_of_suffixes` superblocks later; the symbols, `lag` after those.
template <int planes, int suffixes, bool has_tail, bool pairs>
bool decode_stage(const Stage& stage, const std::uint8_t* bytes, std::size_t superblocks,
                  const Lanes& lanes, const std::array<const std::uint8_t*, max_suffixes>& suffix,
                  const std::uint8_t* tail, const PlaneCursor& end, PlaneCursor& cursor,
                  std::uint8_t* symbols, bool streaming) noexcept {
    constexpr int bits = planes + suffixes;
    constexpr std::size_t delay = suffixes > 0 ? lag_of_suffixes + lag : 0;
    static_assert(delay < ring_size);
    constexpr std::size_t rings = suffixes > 0 ? suffixes : 1;
    alignas(64) std::uint64_t alive_ring[rings][ring_size][8];
    bool wide_ring[ring_size];  // whether a group has more going on than eight bytes surely hold
    alignas(64) std::uint64_t suffix_ring[rings][ring_size][8];
    alignas(64) std::uint64_t tail_ring[ring_size][8];
    __m512i digits[rings][planes];
    std::array<std::uint64_t, max_suffixes> at = cursor.suffix_bits;
    for (std::size_t l = 0; l < suffixes; ++l) load_digits(stage, l, digits[l]);
    // Two suffixes with bits of the same symbols, which gaps have: `at` is kept of the first alone.
    const bool alike = planes == 2 && suffixes == 2 && stage.like_the_suffix_before(1);
    const __m512i valid = _mm512_loadu_si512(lanes.data());
    const __m512i valid_tail = stage.tail ? valid : _mm512_setzero_si512();
    const __m512i order = places_in_order();
    const Lookup<bits> lookup(stage.symbols.data());
    const std::uint8_t* next = tail + cursor.tail;
    const std::uint8_t* const tail_end = tail + end.tail;
    const std::uint8_t* front = bytes;
    const std::uint8_t* back = bytes;

    const auto find = [&](std::size_t slot) noexcept {
        __m512i plane[planes];
#pragma GCC unroll 8
        for (int d = 0; d < planes; ++d) {
            plane[d] = _mm512_loadu_si512(front + 64 * d);
            fetch(front + 64 * d + planes_ahead);
        }
        front += plane_bytes * planes;
        __m512i goes_on = valid;
        if constexpr (has_tail) {
            const __m512i later = _mm512_and_si512(all_ones<planes>(plane), valid_tail);
            _mm512_store_si512(tail_ring[slot], _mm512_permutexvar_epi8(order, later));
            goes_on = _mm512_andnot_si512(later, valid);
        }
#pragma GCC unroll 3
        for (std::size_t l = 0; l < suffixes; ++l) {
            if (!stage.like_the_suffix_before(l)) {
                goes_on = _mm512_and_si512(at_least<planes>(plane, digits[l]), goes_on);
            }
            _mm512_store_si512(alive_ring[l][slot], goes_on);
            if (l > 0) continue;
            wide_ring[slot] =
                _mm512_cmpgt_epu64_mask(_mm512_popcnt_epi64(goes_on), _mm512_set1_epi64(57)) != 0;
        }
    };
    const auto spread_group = [&]<bool wide, bool same>(std::size_t slot, int g) noexcept {
#pragma GCC unroll 3
        for (int l = 0; l < suffixes; ++l) {
            std::uint64_t& position = at[same ? 0 : static_cast<std::size_t>(l)];
            const std::uint64_t alive = loaded_once(alive_ring[same ? 0 : l][slot][g]);
            const auto shift = static_cast<unsigned>(position % 8);
            const std::uint8_t* p = suffix[static_cast<std::size_t>(l)] + position / 8;
            std::uint64_t window;
            std::memcpy(&window, p, 8);
            window >>= shift;
            if constexpr (wide) window |= (std::uint64_t{p[8]} << 1) << (63 - shift);
            suffix_ring[l][slot][g] = _pdep_u64(window, alive);
            if (!same || l + 1 == suffixes) {
                position += static_cast<unsigned>(__builtin_popcountll(alive));
            }
        }
    };
    const auto spread = [&]<bool same>(std::size_t slot) noexcept {
        for (std::size_t l = 0; l < rings; ++l)
            fetch(suffix[l] + at[same ? 0 : l] / 8 + suffixes_ahead);
        if (wide_ring[slot]) {
// Unrolled too, this rare branch would make GCC 12 spill the registers of the other.
#pragma GCC unroll 1
            for (int g = 0; g < 8; ++g) spread_group.template operator()<true, same>(slot, g);
        } else {
#pragma GCC unroll 8
            for (int g = 0; g < 8; ++g) spread_group.template operator()<false, same>(slot, g);
        }
        bool enough = true;
#pragma GCC unroll 3
        for (std::size_t l = 0; l < (same ? 1 : rings); ++l) enough &= at[l] <= end.suffix_bits[l];
        return enough;
    };
    const auto put = [&](std::uint8_t* to, __m512i found) noexcept {
        if (streaming) {
            _mm512_stream_si512(reinterpret_cast<__m512i*>(to), found);
        } else {
            _mm512_storeu_si512(to, found);
        }
    };
    const auto finish = [&](std::size_t slot) noexcept {
        __m512i rows[bits];
#pragma GCC unroll 8
        for (int d = 0; d < planes; ++d) rows[bits - 1 - d] = _mm512_loadu_si512(back + 64 * d);
        back += plane_bytes * planes;
#pragma GCC unroll 3
        for (int l = 0; l < suffixes; ++l) {
            rows[suffixes - 1 - l] = _mm512_load_si512(suffix_ring[l][slot]);
        }
        __m512i indices[8];
        gather_indices<bits>(rows, indices);
#pragma GCC unroll 8
        for (int v = 0; v < 8; ++v) {
            __m512i found = lookup(indices[v]);
            if constexpr (has_tail) {
                const std::uint64_t later = loaded_once(tail_ring[slot][v]);
                found =
                    _mm512_mask_expand_epi8(found, _cvtu64_mask64(later), _mm512_loadu_si512(next));
                next += __builtin_popcountll(later);
            }
            if constexpr (pairs) {
                put(symbols + 128 * v, split(_mm512_castsi512_si256(found)));
                put(symbols + 128 * v + 64, split(_mm512_extracti64x4_epi64(found, 1)));
            } else {
                put(symbols + 64 * v, found);
            }
        }
        symbols += pairs ? 2 * superblock_symbols : superblock_symbols;
    };
    for (std::size_t s = 0; s < superblocks + delay; ++s) {
        if (s < superblocks) find(s % ring_size);
        if constexpr (suffixes > 0) {
            if (s >= lag_of_suffixes && s < superblocks + lag_of_suffixes) {
                const std::size_t slot = (s - lag_of_suffixes) % ring_size;
                if constexpr (planes == 2 && suffixes == 2) {
                    if (alike ? !spread.template operator()<true>(slot)
                              : !spread.template operator()<false>(slot)) {
                        return false;
                    }
                } else if (!spread.template operator()<false>(slot)) {
                    return false;
                }
            }
        }
        if (s >= delay) {
            finish((s - delay) % ring_size);
            if (has_tail && next > tail_end) return false;
        }
    }
    if (streaming) _mm_sfence();  // streamed stores are not ordered by what joins threads
    for (std::size_t l = 0; l < suffixes; ++l) cursor.suffix_bits[l] = at[alike ? 0 : l];
    cursor.tail = static_cast<std::size_t>(next - tail);
    return true;
}

/// Whether a shape has a kernel of its own: those that the codes of real data consist of. A tail
/// begins after few planes or after suffixes, of which three follow many planes alone, and pairs
/// have few words that are frequent. Kernels for shapes with a tail serve those without as well,
/// where these are rare or short.
constexpr bool has_kernel(int planes, int suffixes, bool tail, bool pairs) noexcept {
    if (pairs) return tail && planes <= 3 && suffixes <= std::min(planes, 4 - planes);
    if (!tail) return suffixes == 0 || (suffixes == 1 && (planes <= 3 || planes >= 6));
    if (suffixes == 3) return planes == 4 || planes == 5;
    return planes <= 3 || (suffixes >= 1 && planes <= 5) || (suffixes == 2 && planes == 6);
}

using DecodeStage = decltype(&decode_stage<1, 0, false, false>);

/// The kernel of a shape, or nullptr.
template <int planes, int suffixes>
DecodeStage kernel_of(bool tail, bool pairs) noexcept {
    if constexpr (has_kernel(planes, suffixes, true, true)) {
        if (pairs) return decode_stage<planes, suffixes, true, true>;
    }
    if (pairs) return nullptr;
    if constexpr (has_kernel(planes, suffixes, false, false)) {
        if (!tail) return decode_stage<planes, suffixes, false, false>;
    }
    if constexpr (has_kernel(planes, suffixes, true, false)) {
        return decode_stage<planes, suffixes, true, false>;
    }
    return nullptr;
}

bool decode_planes(const Stage& stage, const std::uint8_t* bytes, std::size_t superblocks,
                   const Lanes& lanes,
                   const std::array<const std::uint8_t*, max_suffixes>& suffixes,
                   const std::uint8_t* tail, const PlaneCursor& end, PlaneCursor& cursor,
                   std::uint8_t* symbols, Output output) noexcept {
    const auto decode = with_shape(
        stage, [&]<int p, int l>() noexcept { return kernel_of<p, l>(stage.tail, output.pairs); });
    if (decode == nullptr) {
        return decode_kernels(Isa::avx2).decode_planes(stage, bytes, superblocks, lanes, suffixes,
                                                       tail, end, cursor, symbols, output);
    }
    return decode(stage, bytes, superblocks, lanes, suffixes, tail, end, cursor, symbols,
                  output.streaming);
}

}  // namespace

void install(dispatch::Level<Isa::avx512>, DecodeKernels& kernels) noexcept {
    kernels.decode_planes = decode_planes;
}

}  // namespace tersor::huffman

#include "dispatch/target_end.hpp"

#endif
