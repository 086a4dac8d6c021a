#include "spmm/activations/kernels.hpp"
#include "spmm/sell/layout.hpp"

#if TERSOR_AVX512

#include "simd/simd_avx512.hpp"

#include "spmm/activations/kernel_simd.hpp"

namespace tersor::spmm::activations {
namespace {

/// Four limbs: more than fp32 can scale.
void split_4(const float* x, std::size_t size, float low, float scale, std::uint8_t* limbs,
             std::size_t stride) noexcept {
    const __m512d origin = _mm512_set1_pd(double{low});
    const __m512d factor = _mm512_set1_pd(double{scale});
    for (std::size_t k = 0; k < size; k += 8) {
        const auto valid = static_cast<__mmask8>(size - k < 8 ? (1U << (size - k)) - 1 : 0xff);
        const __m512d v = _mm512_cvtps_pd(_mm256_maskz_loadu_ps(valid, x + k));
        const __m256i fixed = _mm512_cvtpd_epu32(_mm512_mul_pd(_mm512_sub_pd(v, origin), factor));
        for (int p = 0; p < 4; ++p) {
            const __m256i limb = _mm256_srli_epi32(fixed, 8 * p);
            _mm_storel_epi64(
                reinterpret_cast<__m128i*>(limbs + static_cast<std::size_t>(p) * stride + k),
                _mm256_cvtepi32_epi8(limb));
        }
    }
}

void split_any(const float* x, std::size_t size, float low, float scale, int count,
               std::uint8_t* limbs, std::size_t stride) noexcept {
    if (count == 4) return split_4(x, size, low, scale, limbs, stride);
    split_activations<sell_avx512.limb_bits>(x, size, low, scale, count, limbs, stride);
}

}  // namespace

void install(dispatch::Level<Isa::avx512>, Kernels& kernels) noexcept {
    kernels = {range_of, split_any, transpose, scale};
}

}  // namespace tersor::spmm::activations

#include "dispatch/target_end.hpp"

#endif
