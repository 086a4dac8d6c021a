// What the AVX2 kernels of the bit-sliced code have in common.
#pragma once

#include "dispatch/architecture.hpp"
#include "huffman/kernels.hpp"
#include "huffman/plane_stages.hpp"

#if TERSOR_X86

#include <immintrin.h>

#include "dispatch/target_avx2.hpp"

namespace tersor::huffman {

inline __m256i load(const void* p) noexcept {
    return _mm256_loadu_si256(static_cast<const __m256i*>(p));
}
inline void store(void* p, __m256i v) noexcept { _mm256_storeu_si256(static_cast<__m256i*>(p), v); }

/// table[indices] by shuffles of 16 bytes and a tree of blends, for indices of `bits` bits.
template <int bits>
inline __m256i look_up(const std::uint8_t* table, __m256i indices) noexcept {
    if constexpr (bits <= 4) {
        // A shuffle takes the low nibble of an index whose top bit is zero.
        return _mm256_shuffle_epi8(
            _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(table))),
            indices);
    } else {
        // Only indices of eight bits have a top bit, which no shuffle must see.
        const __m256i below =
            bits == 8 ? _mm256_and_si256(indices, _mm256_set1_epi8(127)) : indices;
        const __m256i low = look_up<bits - 1>(table, below);
        const __m256i high = look_up<bits - 1>(table + (1 << (bits - 1)), below);
        // A blend goes by the top bit of each byte.
        return _mm256_blendv_epi8(low, high, _mm256_slli_epi16(indices, 8 - bits));
    }
}

/// Digits of the first root of a suffix, a vector for each plane: all ones where it has a zero.
struct ClearDigits {
    __m256i of_plane[max_stage_bits];
};

inline void clear_digits_of(const Stage& stage, std::size_t suffix, ClearDigits& digits) noexcept {
    for (int d = 0; d < stage.planes; ++d) {
        const bool one = (stage.suffix_roots[suffix] >> (stage.planes - 1 - d) & 1U) != 0;
        digits.of_plane[d] = _mm256_set1_epi64x(one ? 0 : -1);
    }
}

/// Which lanes of a half of a superblock go on to the first `suffixes` suffixes: those whose root
/// is at least the suffix's first one, but not the last root where that is the tail's.
template <std::size_t suffixes>
inline void find_going_on(int planes, const std::uint8_t* plane, __m256i lanes,
                          const ClearDigits* clear_digits, bool has_tail,
                          __m256i* going_on) noexcept {
    __m256i ones = _mm256_set1_epi64x(-1);
#pragma GCC unroll 3
    for (std::size_t l = 0; l < suffixes; ++l) going_on[l] = ones;
    for (auto d = static_cast<std::size_t>(planes); d-- > 0;) {
        const __m256i bits = load(plane + plane_bytes * d);
        ones = _mm256_and_si256(ones, bits);
#pragma GCC unroll 3
        for (std::size_t l = 0; l < suffixes; ++l) {
            // digit ? at_least & bits : at_least | bits
            const __m256i at_least = going_on[l];
            going_on[l] = _mm256_or_si256(
                _mm256_and_si256(at_least, bits),
                _mm256_and_si256(clear_digits[l].of_plane[d], _mm256_or_si256(at_least, bits)));
        }
    }
    if (has_tail) lanes = _mm256_andnot_si256(ones, lanes);
#pragma GCC unroll 3
    for (std::size_t l = 0; l < suffixes; ++l) going_on[l] = _mm256_and_si256(going_on[l], lanes);
}

}  // namespace tersor::huffman

#include "dispatch/target_end.hpp"

#endif
