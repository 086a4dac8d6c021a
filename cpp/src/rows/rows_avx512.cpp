#include "dispatch/architecture.hpp"
#include "rows/kernels.hpp"

#if TERSOR_AVX512

#include <immintrin.h>

#include "dispatch/target_avx512.hpp"

namespace tersor::rows {
namespace {

/// Looks one byte of the values up for 64 codes; `tables` vectors hold this byte of all values.
template <int tables>
__m512i look_up_plane(const __m512i* plane, __m512i codes, __mmask64 upper) noexcept {
    if constexpr (tables == 1) {
        return _mm512_permutexvar_epi8(codes, plane[0]);
    } else if constexpr (tables == 2) {
        return _mm512_permutex2var_epi8(plane[0], codes, plane[1]);
    } else {
        const __m512i low = _mm512_permutex2var_epi8(plane[0], codes, plane[1]);
        const __m512i high = _mm512_permutex2var_epi8(plane[2], codes, plane[3]);
        return _mm512_mask_blend_epi8(upper, low, high);
    }
}

/// 64 codes at a time: each is moved to a byte of its own, the four bytes of its value are looked
/// up in registers, and bytes are interleaved to floats.
template <int tables>
void decode_row(const std::uint8_t* codes, const Codebook& codebook, float factor, std::size_t size,
                float* out) noexcept {
    const auto bits = static_cast<std::size_t>(codebook.bits);
    const __m512i spread = _mm512_load_si512(codebook.spread);
    const __m512i shifts = _mm512_load_si512(codebook.shifts);
    const __m512i mask = _mm512_set1_epi8(static_cast<char>((1U << bits) - 1));
    // So that interleaving, which stays within 16 bytes, gives the values in order.
    const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    const __m512 scale = _mm512_set1_ps(factor);
    __m512i planes[4][tables];
    for (int p = 0; p < 4; ++p) {
        for (int t = 0; t < tables; ++t) {
            planes[p][t] = _mm512_load_si512(codebook.planes[p] + 64 * t);
        }
    }
    for (std::size_t i = 0; i < size; i += Codebook::lanes) {
        const __m512i bytes = _mm512_loadu_si512(codes + i / group * bits);
        const __m512i groups = _mm512_permutexvar_epi8(spread, bytes);
        const __m512i found = _mm512_and_si512(_mm512_multishift_epi64_epi8(shifts, groups), mask);
        const __m512i code = _mm512_permutexvar_epi32(order, found);
        const __mmask64 upper = _mm512_movepi8_mask(code);
        const __m512i b0 = look_up_plane<tables>(planes[0], code, upper);
        const __m512i b1 = look_up_plane<tables>(planes[1], code, upper);
        const __m512i b2 = look_up_plane<tables>(planes[2], code, upper);
        const __m512i b3 = look_up_plane<tables>(planes[3], code, upper);
        const __m512i low01 = _mm512_unpacklo_epi8(b0, b1);
        const __m512i high01 = _mm512_unpackhi_epi8(b0, b1);
        const __m512i low23 = _mm512_unpacklo_epi8(b2, b3);
        const __m512i high23 = _mm512_unpackhi_epi8(b2, b3);
        const __m512i values[4] = {
            _mm512_unpacklo_epi16(low01, low23), _mm512_unpackhi_epi16(low01, low23),
            _mm512_unpacklo_epi16(high01, high23), _mm512_unpackhi_epi16(high01, high23)};
        const std::size_t left = size - i;
        for (std::size_t j = 0; j < 4 && 16 * j < left; ++j) {
            const __m512 value = _mm512_mul_ps(scale, _mm512_castsi512_ps(values[j]));
            const std::size_t here = left - 16 * j;
            const auto wanted = static_cast<__mmask16>(here < 16 ? (1U << here) - 1 : 0xFFFFU);
            _mm512_mask_storeu_ps(out + i + 16 * j, wanted, value);
        }
    }
}

void decode_any(const std::uint8_t* codes, const Codebook& codebook, float factor, std::size_t size,
                float* out) noexcept {
    if (codebook.bits <= 6) {
        decode_row<1>(codes, codebook, factor, size, out);
    } else if (codebook.bits == 7) {
        decode_row<2>(codes, codebook, factor, size, out);
    } else {
        decode_row<4>(codes, codebook, factor, size, out);
    }
}

}  // namespace

void install(dispatch::Level<Isa::avx512>, Kernels& kernels) noexcept {
    kernels.decode_row = decode_any;
}

}  // namespace tersor::rows

#include "dispatch/target_end.hpp"

#endif
