// What the AVX-512 kernels of the bit-sliced code have in common.
#pragma once

#include "dispatch/architecture.hpp"
#include "huffman/kernels.hpp"
#include "huffman/plane_stages.hpp"

#if TERSOR_AVX512

#include <immintrin.h>

#include "dispatch/target_avx512.hpp"

namespace tersor::huffman {

/// Multiplied with the bits of a quadword it transposes them: bit i of byte j of the product is bit
/// j of byte 7 - i.
inline __m512i transposed(__m512i rows) noexcept {
    const __m512i identity = _mm512_set1_epi64(static_cast<long long>(0x8040201008040201ULL));
    return _mm512_gf2p8affine_epi64_epi8(identity, rows, 0);
}

/// Byte b of the result is the place of block b: it brings places into the order of symbols.
inline __m512i places_in_order() noexcept { return _mm512_load_si512(places.data()); }

/// The digits of the first root of a suffix.
inline void load_digits(const Stage& stage, std::size_t suffix, __m512i* digits) noexcept {
    for (int d = 0; d < stage.planes; ++d) {
        const bool one = (stage.suffix_roots[suffix] >> (stage.planes - 1 - d) & 1U) != 0;
        digits[d] = _mm512_set1_epi64(one ? -1 : 0);
    }
}

/// The symbols of 64 indices of `bits` bits.
template <int bits>
struct Lookup {
    __m512i table[bits > 6 ? 1 << (bits - 6) : 1];

    explicit Lookup(const std::uint8_t* symbols) noexcept {
        if constexpr (bits <= 4) {  // repeated, so that the bits above the index do not matter
            table[0] =
                _mm512_broadcast_i32x4(_mm_loadu_si128(reinterpret_cast<const __m128i*>(symbols)));
        } else {
            for (std::size_t i = 0; i < sizeof(table) / 64; ++i) {
                table[i] = _mm512_loadu_si512(symbols + 64 * i);
            }
        }
    }
    __m512i operator()(__m512i indices) const noexcept {
        if constexpr (bits <= 6) {
            return _mm512_permutexvar_epi8(indices, table[0]);
        } else if constexpr (bits == 7) {
            return _mm512_permutex2var_epi8(table[0], indices, table[1]);
        } else {
            return _mm512_mask_blend_epi8(_mm512_movepi8_mask(indices),
                                          _mm512_permutex2var_epi8(table[0], indices, table[1]),
                                          _mm512_permutex2var_epi8(table[2], indices, table[3]));
        }
    }
};

}  // namespace tersor::huffman

#include "dispatch/target_end.hpp"

#endif
