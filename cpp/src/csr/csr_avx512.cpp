#include "csr/kernels.hpp"
#include "dispatch/architecture.hpp"

#if TERSOR_AVX512

#include <immintrin.h>

#include "dispatch/target_avx512.hpp"

namespace tersor::csr {
namespace {

void nonzero_bitmap(const std::uint8_t* codes, std::size_t size, std::uint64_t* bits) noexcept {
    std::size_t i = 0;
    for (; i + 64 <= size; i += 64) {
        const __m512i v = _mm512_loadu_si512(codes + i);
        bits[i / 64] = _mm512_test_epi8_mask(v, v);
    }
    if (i < size) {
        const __mmask64 valid = _bzhi_u64(~std::uint64_t{0}, static_cast<unsigned>(size - i));
        const __m512i v = _mm512_maskz_loadu_epi8(valid, codes + i);
        bits[i / 64] = _mm512_test_epi8_mask(v, v);
    }
}

FastVerdict validate_fast(const std::uint8_t* codes, const std::uint8_t* gaps, std::size_t size,
                          int index_bits, std::uint64_t sequence_length) noexcept {
    if (size == 0) return {true, 0};
    const __m512i filler_gap = _mm512_set1_epi8(static_cast<char>((1 << index_bits) - 1));
    const __m512i zero = _mm512_setzero_si512();
    __m512i advance = zero;
    __mmask64 faults = 0;
    std::size_t fillers = 0;
    for (std::size_t i = 0; i < size; i += 64) {
        const __mmask64 valid =
            _bzhi_u64(~std::uint64_t{0}, static_cast<unsigned>(size - i < 64 ? size - i : 64));
        const __m512i gap = _mm512_maskz_loadu_epi8(valid, gaps + i);
        const __m512i code = _mm512_maskz_loadu_epi8(valid, codes + i);
        const __mmask64 filler = _mm512_mask_testn_epi8_mask(valid, code, code);
        // A gap is at most the filler's, and a filler's is just that.
        faults |= _mm512_cmpgt_epu8_mask(gap, filler_gap) |
                  _mm512_mask_cmpneq_epi8_mask(filler, gap, filler_gap);
        advance = _mm512_add_epi64(advance, _mm512_sad_epu8(gap, zero));
        fillers += static_cast<std::size_t>(_mm_popcnt_u64(filler));
    }
    const std::uint64_t total = size + static_cast<std::uint64_t>(_mm512_reduce_add_epi64(advance));
    return {faults == 0 && codes[size - 1] != 0 && total <= sequence_length, size - fillers};
}

}  // namespace

void install(dispatch::Level<Isa::avx512>, Kernels& kernels) noexcept {
    kernels.nonzero_bitmap = nonzero_bitmap;
    kernels.validate_fast = validate_fast;
}

}  // namespace tersor::csr

#include "dispatch/target_end.hpp"

#endif
