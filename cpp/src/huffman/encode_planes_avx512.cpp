// AVX-512 kernels that encode to the bit-sliced code: one GF(2) product transposes eight indices to
// rows of bits, `pext` gathers the bits of the suffixes. Symbols are counted by the same planes.
#include "huffman/planes_avx512.hpp"

#if TERSOR_AVX512

#include <algorithm>
#include <cstring>

#include "dispatch/target_avx512.hpp"

namespace tersor::huffman {
namespace {

/// The inverse of gather_indices, for whole bytes or for nibbles: rows[b] is the plane of bit b.
template <bool wide>
inline void scatter_indices(const __m512i* indices, __m512i* rows) noexcept {
    // Within each quadword, and for the odd blocks' bits after the even ones'.
    const __m512i reversed =
        _mm512_broadcast_i32x4(_mm_setr_epi8(7, 6, 5, 4, 3, 2, 1, 0, 15, 14, 13, 12, 11, 10, 9, 8));
    // Doublewords: for each of four bits, the bytes of the four blocks of one parity and half.
    __m512i quads[wide ? 2 : 1][4];
    if constexpr (wide) {
        const __m512i by_bit = _mm512_broadcast_i32x4(
            _mm_setr_epi8(0, 8, 1, 9, 2, 10, 3, 11, 4, 12, 5, 13, 6, 14, 7, 15));
#pragma GCC unroll 4
        for (int i = 0; i < 4; ++i) {
            const __m512i even = _mm512_shuffle_epi8(
                transposed(_mm512_shuffle_epi8(indices[2 * i], reversed)), by_bit);
            const __m512i odd = _mm512_shuffle_epi8(
                transposed(_mm512_shuffle_epi8(indices[2 * i + 1], reversed)), by_bit);
            quads[0][i] = _mm512_unpacklo_epi8(even, odd);
            quads[1][i] = _mm512_unpackhi_epi8(even, odd);
        }
    } else {
        // Byte a of a transposed quadword is bit a: the odd block's below, the even one's above.
        const __m512i by_bit = _mm512_broadcast_i32x4(
            _mm_setr_epi8(4, 0, 12, 8, 5, 1, 13, 9, 6, 2, 14, 10, 7, 3, 15, 11));
#pragma GCC unroll 4
        for (int i = 0; i < 4; ++i) {
            const __m512i two =
                _mm512_or_si512(_mm512_slli_epi16(indices[2 * i], 4), indices[2 * i + 1]);
            quads[0][i] =
                _mm512_shuffle_epi8(transposed(_mm512_shuffle_epi8(two, reversed)), by_bit);
        }
    }
#pragma GCC unroll 2
    for (int half = 0; half < (wide ? 2 : 1); ++half) {
        const __m512i* q = quads[half];
        const __m512i a = _mm512_unpacklo_epi32(q[0], q[1]);
        const __m512i b = _mm512_unpacklo_epi32(q[2], q[3]);
        const __m512i c = _mm512_unpackhi_epi32(q[0], q[1]);
        const __m512i d = _mm512_unpackhi_epi32(q[2], q[3]);
        rows[4 * half] = _mm512_unpacklo_epi64(a, b);
        rows[4 * half + 1] = _mm512_unpackhi_epi64(a, b);
        rows[4 * half + 2] = _mm512_unpacklo_epi64(c, d);
        rows[4 * half + 3] = _mm512_unpackhi_epi64(c, d);
    }
}

template <bool wide, int suffixes, bool has_tail, bool small_alphabet>
void encode_stage(const Stage& stage, const std::uint8_t* symbols, std::size_t superblocks,
                  const Lanes& lanes, std::uint8_t* bytes,
                  const std::array<std::uint8_t*, max_suffixes>& suffix, std::uint8_t* tail,
                  PlaneCursor& cursor) noexcept {
    constexpr int most = wide ? max_stage_bits : 4;
    const Lookup<small_alphabet ? 6 : 8> index_of(stage.indices.data());
    const __m512i valid = _mm512_loadu_si512(lanes.data());
    alignas(64) std::uint64_t present[8];  // in the order of the symbols
    _mm512_store_si512(present, _mm512_permutexvar_epi8(places_in_order(), valid));
    const __m512i tail_index = _mm512_set1_epi8(static_cast<char>(stage.tail_index()));
    constexpr std::size_t rings = suffixes > 0 ? suffixes : 1;
    alignas(64) std::uint64_t alive_ring[rings][2][8];
    alignas(64) std::uint64_t suffix_ring[rings][2][8];
    __m512i digits[rings][max_stage_bits];
    std::array<BitAppender, suffixes> out;
    for (std::size_t l = 0; l < suffixes; ++l) {
        load_digits(stage, l, digits[l]);
        out[l] = {suffix[l], cursor.suffix_bits[l]};
    }
    std::uint8_t* next = tail + cursor.tail;

    const auto append_suffixes = [&](std::size_t slot) noexcept {
        std::array<BitAppender, suffixes> appenders = out;  // which compilers keep in registers
#pragma GCC unroll 8
        for (int g = 0; g < 8; ++g) {
#pragma GCC unroll 3
            for (std::size_t l = 0; l < suffixes; ++l) {
                const std::uint64_t alive = alive_ring[l][slot][g];
                appenders[l].append(_pext_u64(suffix_ring[l][slot][g], alive),
                                    static_cast<unsigned>(__builtin_popcountll(alive)));
            }
        }
        out = appenders;
    };
    for (std::size_t s = 0; s < superblocks; ++s, symbols += superblock_symbols) {
        __m512i indices[8];
#pragma GCC unroll 8
        for (int v = 0; v < 8; ++v) {
            const __m512i symbol = _mm512_loadu_si512(symbols + 64 * v);
            const __mmask64 here = _cvtu64_mask64(present[v]);
            indices[v] = _mm512_maskz_mov_epi8(here, index_of(symbol));
            if constexpr (has_tail) {
                const __mmask64 later = _mm512_mask_cmpeq_epi8_mask(here, indices[v], tail_index);
                _mm512_storeu_si512(next, _mm512_maskz_compress_epi8(later, symbol));
                next += __builtin_popcountll(_cvtmask64_u64(later));
            }
        }
        __m512i rows[most];
        scatter_indices<wide>(indices, rows);
        __m512i going_on[rings];
        for (__m512i& lanes_of_suffix : going_on) lanes_of_suffix = valid;
        __m512i ones = _mm512_set1_epi64(-1);
#pragma GCC unroll 8
        for (int b = 0; b < most - suffixes; ++b) {
            if (b >= stage.planes) break;
            const int d = stage.planes - 1 - b;
            const __m512i row = rows[suffixes + b];
            _mm512_storeu_si512(bytes + 64 * d, row);
#pragma GCC unroll 3
            for (std::size_t l = 0; l < suffixes; ++l) {
                going_on[l] = _mm512_ternarylogic_epi64(going_on[l], row, digits[l][d], 0xd4);
            }
            ones = _mm512_and_si512(ones, row);
        }
        bytes += plane_bytes * static_cast<std::size_t>(stage.planes);
        if constexpr (suffixes > 0) {
            const std::size_t slot = s % 2;
#pragma GCC unroll 3
            for (std::size_t l = 0; l < suffixes; ++l) {
                __m512i alive = _mm512_and_si512(going_on[l], valid);
                if constexpr (has_tail) alive = _mm512_andnot_si512(ones, alive);
                _mm512_store_si512(alive_ring[l][slot], alive);
                _mm512_store_si512(suffix_ring[l][slot], rows[suffixes - 1 - l]);
            }
            if (s > 0) append_suffixes(1 - slot);
        }
    }
    if (suffixes > 0 && superblocks > 0) append_suffixes((superblocks - 1) % 2);
    for (std::size_t l = 0; l < suffixes; ++l) cursor.suffix_bits[l] = out[l].finish(suffix[l]);
    cursor.tail = static_cast<std::size_t>(next - tail);
}

using EncodeStage = decltype(&encode_stage<false, 0, false, false>);

template <bool wide, int suffixes>
EncodeStage encoder(bool tail, bool small_alphabet) noexcept {
    if (tail) {
        return small_alphabet ? encode_stage<wide, suffixes, true, true>
                              : encode_stage<wide, suffixes, true, false>;
    }
    return small_alphabet ? encode_stage<wide, suffixes, false, true>
                          : encode_stage<wide, suffixes, false, false>;
}

template <bool wide>
EncodeStage encoder(int suffixes, bool tail, bool small_alphabet) noexcept {
    switch (suffixes) {
        case 0: return encoder<wide, 0>(tail, small_alphabet);
        case 1: return encoder<wide, 1>(tail, small_alphabet);
        case 2: return encoder<wide, 2>(tail, small_alphabet);
        default: return encoder<wide, 3>(tail, small_alphabet);
    }
}

void encode_planes(const Stage& stage, const std::uint8_t* symbols, std::size_t superblocks,
                   const Lanes& lanes, std::uint8_t* planes,
                   const std::array<std::uint8_t*, max_suffixes>& suffixes, std::uint8_t* tail,
                   PlaneCursor& cursor) noexcept {
    const bool small = stage.last_symbol < 64;
    const EncodeStage encode = stage.bits() > 4 ? encoder<true>(stage.suffixes, stage.tail, small)
                                                : encoder<false>(stage.suffixes, stage.tail, small);
    encode(stage, symbols, superblocks, lanes, planes, suffixes, tail, cursor);
}

void join_pairs(const std::uint8_t* symbols, std::size_t count, std::uint8_t* pairs) noexcept {
    std::size_t i = 0;
    for (; i + 32 <= count; i += 32) {
        const __m512i two = _mm512_loadu_si512(symbols + 2 * i);
        const __m512i joined = _mm512_or_si512(two, _mm512_srli_epi16(two, 4));
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(pairs + i), _mm512_cvtepi16_epi8(joined));
    }
    encode_kernels(Isa::scalar).join_pairs(symbols + 2 * i, count - i, pairs + i);
}

/// Adds to sums[m] how many indices have all the bits of m, by their planes.
template <int bits>
inline void count_bit_sets(const __m512i* rows, __m512i* sums) noexcept {
    __m512i both[1 << bits];
#pragma GCC unroll 32
    for (unsigned m = 1; m < 1U << bits; ++m) {
        const unsigned others = m & (m - 1);
        const __m512i& row = rows[__builtin_ctz(m)];
        both[m] = others == 0 ? row : _mm512_and_si512(both[others], row);
        sums[m] = _mm512_add_epi64(sums[m], _mm512_popcnt_epi64(both[m]));
    }
}

/// Counts by planes while all symbols are below 2^bits; returns how many symbols it counted, a
/// multiple of a superblock.
template <int bits>
std::size_t count_narrow(const std::uint8_t* symbols, std::size_t count,
                         std::uint64_t* histogram) noexcept {
    const __m512i above = _mm512_set1_epi8(static_cast<char>(0xff << bits));
    __m512i sums[1 << bits];
    for (__m512i& sum : sums) sum = _mm512_setzero_si512();
    std::size_t done = 0;
    for (; done + superblock_symbols <= count; done += superblock_symbols) {
        __m512i symbol[8];
        __m512i all = _mm512_setzero_si512();
#pragma GCC unroll 8
        for (int v = 0; v < 8; ++v) {
            symbol[v] = _mm512_loadu_si512(symbols + done + 64 * v);
            all = _mm512_or_si512(all, symbol[v]);
        }
        if (_mm512_test_epi8_mask(all, above) != 0) break;
        __m512i rows[bits > 4 ? 8 : 4];
        scatter_indices<(bits > 4)>(symbol, rows);
        count_bit_sets<bits>(rows, sums);
    }
    std::array<std::uint64_t, 1 << bits> supersets{};
    supersets[0] = done;
    for (std::size_t m = 1; m < supersets.size(); ++m) {
        supersets[m] = static_cast<std::uint64_t>(_mm512_reduce_add_epi64(sums[m]));
    }
    // Those with a bit, taken from those with or without it, leave those without.
    for (std::size_t bit = 1; bit < supersets.size(); bit *= 2) {
        for (std::size_t m = 0; m < supersets.size(); ++m) {
            if ((m & bit) == 0) supersets[m] -= supersets[m | bit];
        }
    }
    for (std::size_t m = 0; m < supersets.size(); ++m) histogram[m] += supersets[m];
    return done;
}

void count_symbols(const std::uint8_t* symbols, std::size_t count,
                   std::uint64_t* histogram) noexcept {
    constexpr std::size_t chunk = std::size_t{1} << 16;
    while (count > 0) {
        std::size_t done = count_narrow<4>(symbols, count, histogram);
        if (done == 0) done = count_narrow<5>(symbols, count, histogram);
        if (done == 0) {
            done = std::min(count, chunk);
            encode_kernels(Isa::scalar).count_symbols(symbols, done, histogram);
        }
        symbols += done;
        count -= done;
    }
}

}  // namespace

void install(dispatch::Level<Isa::avx512>, EncodeKernels& kernels) noexcept {
    kernels.encode_planes = encode_planes;
    kernels.join_pairs = join_pairs;
    kernels.count_symbols = count_symbols;
}

}  // namespace tersor::huffman

#include "dispatch/target_end.hpp"

#endif
