// AVX2 and BMI2 kernels of the bit-sliced code: the AVX-512 ones with half the width, where two
// swaps of bits transpose what the GF(2) product does there, and byte shuffles look up 16 symbols
// at a time.
//
// Bottleneck: vector operations, four times as many for a superblock as with AVX-512; copies of the
// loop for each shape of stage gain nothing.
#include "huffman/planes_avx2.hpp"

#if TERSOR_X86

#include <cstring>

#include "dispatch/cpu_features.hpp"
#include "dispatch/target_avx2.hpp"

namespace tersor::huffman {
namespace {

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

template <int high>
inline __m256i unpack_bytes(__m256i x, __m256i y) noexcept {
    return high == 0 ? _mm256_unpacklo_epi8(x, y) : _mm256_unpackhi_epi8(x, y);
}

/// The rows of four bits to the indices of the quarter `part` of them: first those of the even
/// blocks of the groups of one parity and half, then of the odd ones.
template <int part>
inline void gather_nibbles(const __m256i* row, __m256i* even_odd) noexcept {
    const __m256i nibble = _mm256_set1_epi8(15);
    const __m256i a = unpack_bytes<part / 2>(row[3], row[2]);
    const __m256i b = unpack_bytes<part / 2>(row[1], row[0]);
    const __m256i v =
        transposed(part % 2 == 0 ? _mm256_unpacklo_epi16(a, b) : _mm256_unpackhi_epi16(a, b));
    const __m256i first = _mm256_and_si256(v, nibble);
    const __m256i second = _mm256_and_si256(_mm256_srli_epi16(v, 4), nibble);
    const __m256i blocks_01 = _mm256_unpacklo_epi32(first, second);
    const __m256i blocks_23 = _mm256_unpackhi_epi32(first, second);
    even_odd[0] = _mm256_unpacklo_epi64(blocks_01, blocks_23);
    even_odd[1] = _mm256_unpackhi_epi64(blocks_01, blocks_23);
}

/// Puts the next symbols of the tail where `later` is all ones.
inline __m256i merge_tail(__m256i found, __m256i later, const std::uint8_t*& next) noexcept {
    // Less the ones up to each byte of its half, whose complement is the rank of the byte.
    __m256i sums = _mm256_add_epi8(later, _mm256_slli_si256(later, 1));
    sums = _mm256_add_epi8(sums, _mm256_slli_si256(sums, 2));
    sums = _mm256_add_epi8(sums, _mm256_slli_si256(sums, 4));
    sums = _mm256_add_epi8(sums, _mm256_slli_si256(sums, 8));
    const __m256i rank = _mm256_xor_si256(sums, _mm256_set1_epi8(-1));
    const auto mask = static_cast<unsigned>(_mm256_movemask_epi8(later));
    const std::uint8_t* middle = next + __builtin_popcount(mask & 0xffffU);
    const __m256i source = _mm256_inserti128_si256(
        _mm256_castsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(next))),
        _mm_loadu_si128(reinterpret_cast<const __m128i*>(middle)), 1);
    next += __builtin_popcount(mask);
    return _mm256_blendv_epi8(found, _mm256_shuffle_epi8(source, rank), later);
}

/// The pairs of a superblock to two symbols each.
[[gnu::noinline]] void split_superblock(const std::uint8_t* pairs, std::uint8_t* symbols,
                                        bool streaming) noexcept {
    for (std::size_t i = 0; i < superblock_symbols; i += 16) {
        const __m256i words =
            _mm256_cvtepu8_epi16(_mm_load_si128(reinterpret_cast<const __m128i*>(pairs + i)));
        const __m256i two = _mm256_and_si256(_mm256_or_si256(words, _mm256_slli_epi16(words, 4)),
                                             _mm256_set1_epi8(15));
        if (streaming) {
            _mm256_stream_si256(reinterpret_cast<__m256i*>(symbols + 2 * i), two);
        } else {
            store(symbols + 2 * i, two);
        }
    }
}

/// The rows of bits of a superblock's indices, the lowest first; those that no index has are zero.
using Rows = std::array<const std::uint8_t*, max_stage_bits>;

/// The indices of a superblock from their rows, in the order of the symbols.
template <bool wide>
[[gnu::noinline]] void gather_indices(const Rows& rows, std::uint8_t* indices) noexcept {
#pragma GCC unroll 1
    for (std::size_t half = 0; half < 2; ++half) {
        const auto row = [&](std::size_t b) noexcept { return load(rows[b] + 32 * half); };
        const auto gather_part = [&]<int part>() noexcept {
            const __m256i low[4] = {row(0), row(1), row(2), row(3)};
            __m256i index[2];
            gather_nibbles<part>(low, index);
            if constexpr (wide) {
                const __m256i high[4] = {row(4), row(5), row(6), row(7)};
                __m256i above[2];
                gather_nibbles<part>(high, above);
                index[0] = _mm256_or_si256(index[0], _mm256_slli_epi16(above[0], 4));
                index[1] = _mm256_or_si256(index[1], _mm256_slli_epi16(above[1], 4));
            }
            store(indices + 128 * part + 32 * half, index[0]);
            store(indices + 128 * part + 32 * half + 64, index[1]);
        };
        gather_part.template operator()<0>();
        gather_part.template operator()<1>();
        gather_part.template operator()<2>();
        gather_part.template operator()<3>();
    }
}

/// The symbols of a superblock from their indices; returns where the tail goes on.
template <int bits, bool has_tail>
[[gnu::noinline]] const std::uint8_t* put_symbols(const Stage& stage, const std::uint8_t* indices,
                                                  const std::uint8_t* next, std::uint8_t* symbols,
                                                  bool streaming) noexcept {
    const __m256i tail_index = _mm256_set1_epi8(static_cast<char>(stage.tail_index()));
#pragma GCC unroll 2
    for (std::size_t i = 0; i < superblock_symbols; i += 32) {
        const __m256i index = load(indices + i);
        __m256i found = look_up<bits>(stage.symbols.data(), index);
        if constexpr (has_tail) {
            found = merge_tail(found, _mm256_cmpeq_epi8(index, tail_index), next);
        }
        if (streaming) {
            _mm256_stream_si256(reinterpret_cast<__m256i*>(symbols + i), found);
        } else {
            store(symbols + i, found);
        }
    }
    return next;
}

template <bool has_tail>
auto put_symbols_of(int bits) noexcept {
    switch (bits) {
        case 5: return put_symbols<5, has_tail>;
        case 6: return put_symbols<6, has_tail>;
        case 7: return put_symbols<7, has_tail>;
        case 8: return put_symbols<8, has_tail>;
        default: return put_symbols<4, has_tail>;
    }
}

/// Three steps, each behind the one before: see the AVX-512 kernel. What depends on the planes is
/// called, so that there is no copy of it for every shape: a superblock takes long enough here.
template <int suffixes>
bool decode_stage(const Stage& stage, const std::uint8_t* bytes, std::size_t superblocks,
                  const Lanes& lanes,
                  const std::array<const std::uint8_t*, max_suffixes>& suffix_bytes,
                  const std::uint8_t* tail, const PlaneCursor& end, PlaneCursor& cursor,
                  std::uint8_t* symbols, Output output) noexcept {
    constexpr std::size_t delay = suffixes > 0 ? lag_of_suffixes + lag : 0;
    constexpr std::size_t rings = suffixes > 0 ? suffixes : 1;
    const auto planes = static_cast<std::size_t>(stage.planes);
    const auto bits = static_cast<std::size_t>(stage.bits());
    alignas(64) std::uint64_t alive_ring[rings][ring_size][8];
    alignas(64) std::uint64_t suffix_ring[rings][ring_size][8];
    std::array<ClearDigits, rings> clear_digits;
    bool alike = true;        // all suffixes have bits of the same symbols
    std::uint64_t at[rings];  // the next bit of each suffix
    const std::uint8_t* suffix[rings];
    for (std::size_t l = 0; l < suffixes; ++l) {
        clear_digits_of(stage, l, clear_digits[l]);
        alike = alike && (l == 0 || stage.like_the_suffix_before(l));
        at[l] = cursor.suffix_bits[l];
        suffix[l] = suffix_bytes[l];
    }
    const auto gather = bits > 4 ? gather_indices<true> : gather_indices<false>;
    const auto put =
        stage.tail ? put_symbols_of<true>(stage.bits()) : put_symbols_of<false>(stage.bits());
    const std::uint8_t* next = tail + cursor.tail;
    const std::uint8_t* const tail_end = tail + end.tail;
    const std::uint8_t* front = bytes;
    const std::uint8_t* back = bytes;
    alignas(32) static constexpr std::array<std::uint8_t, plane_bytes> zeros{};
    Rows rows;
    rows.fill(zeros.data());

    const auto find = [&](std::size_t slot) noexcept {
#pragma GCC unroll 1
        for (int half = 0; half < 2; ++half) {
            const std::uint8_t* plane = front + 32 * half;
            const __m256i valid = load(lanes.data() + 4 * half);
            __m256i going_on[rings];
            if (suffixes == 1 || alike) {
                find_going_on<1>(stage.planes, plane, valid, clear_digits.data(), stage.tail,
                                 going_on);
                for (std::size_t l = 1; l < suffixes; ++l) going_on[l] = going_on[0];
            } else {
                find_going_on<suffixes>(stage.planes, plane, valid, clear_digits.data(), stage.tail,
                                        going_on);
            }
            for (std::size_t l = 0; l < suffixes; ++l)
                store(alive_ring[l][slot] + 4 * half, going_on[l]);
        }
        front += plane_bytes * planes;
    };
    const auto spread = [&](std::size_t slot) noexcept {
#pragma GCC unroll 2
        for (int g = 0; g < 8; ++g) {
#pragma GCC unroll 3
            for (std::size_t l = 0; l < suffixes; ++l) {
                const std::uint64_t alive = alive_ring[l][slot][g];
                const auto shift = static_cast<unsigned>(at[l] % 8);
                const std::uint8_t* p = suffix[l] + at[l] / 8;
                std::uint64_t window;
                std::memcpy(&window, p, 8);
                window = (window >> shift) | (std::uint64_t{p[8]} << 1) << (63 - shift);
                suffix_ring[l][slot][g] = _pdep_u64(window, alive);
                at[l] += static_cast<unsigned>(__builtin_popcountll(alive));
            }
        }
    };
    const bool past_caches = output.streaming && !output.pairs;
    alignas(32) std::uint8_t indices[superblock_symbols];
    alignas(32) std::uint8_t joined[superblock_symbols];
    const auto finish = [&](std::size_t slot) noexcept {
#pragma GCC unroll 3
        for (std::size_t l = 0; l < suffixes; ++l) {
            rows[suffixes - 1 - l] = reinterpret_cast<const std::uint8_t*>(suffix_ring[l][slot]);
        }
        for (std::size_t d = 0; d < planes; ++d, back += plane_bytes) rows[bits - 1 - d] = back;
        gather(rows, indices);
        next = put(stage, indices, next, output.pairs ? joined : symbols, past_caches);
        if (output.pairs) {
            split_superblock(joined, symbols, output.streaming);
            symbols += superblock_symbols;
        }
        symbols += superblock_symbols;
    };
    for (std::size_t s = 0; s < superblocks + delay; ++s) {
        if constexpr (suffixes > 0) {
            if (s < superblocks) find(s % ring_size);
            if (s >= lag_of_suffixes && s < superblocks + lag_of_suffixes) {
                spread((s - lag_of_suffixes) % ring_size);
                bool past_end = false;
                for (std::size_t l = 0; l < suffixes; ++l) past_end |= at[l] > end.suffix_bits[l];
                if (past_end) return false;
            }
        }
        if (s >= delay) {
            finish((s - delay) % ring_size);
            if (next > tail_end) return false;
        }
    }
    if (output.streaming) _mm_sfence();  // streamed stores are not ordered by what joins threads
    for (std::size_t l = 0; l < suffixes; ++l) cursor.suffix_bits[l] = at[l];
    cursor.tail = static_cast<std::size_t>(next - tail);
    return true;
}

using DecodeStage = decltype(&decode_stage<0>);

DecodeStage decoder(int suffixes) noexcept {
    switch (suffixes) {
        case 0: return decode_stage<0>;
        case 1: return decode_stage<1>;
        case 2: return decode_stage<2>;
        default: return decode_stage<3>;
    }
}

bool decode_planes(const Stage& stage, const std::uint8_t* bytes, std::size_t superblocks,
                   const Lanes& lanes,
                   const std::array<const std::uint8_t*, max_suffixes>& suffixes,
                   const std::uint8_t* tail, const PlaneCursor& end, PlaneCursor& cursor,
                   std::uint8_t* symbols, Output output) noexcept {
    return decoder(stage.suffixes)(stage, bytes, superblocks, lanes, suffixes, tail, end, cursor,
                                   symbols, output);
}

}  // namespace

void install(dispatch::Level<Isa::avx2>, DecodeKernels& kernels) noexcept {
    // Where `pdep` is microcode the portable kernel is faster.
    if (!dispatch::slow_bit_deposit()) kernels.decode_planes = decode_planes;
}

}  // namespace tersor::huffman

#include "dispatch/target_end.hpp"

#endif
