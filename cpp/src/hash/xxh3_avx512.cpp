#include "dispatch/architecture.hpp"
#include "hash/kernels.hpp"

#if TERSOR_AVX512

#include <immintrin.h>

#include "dispatch/target_avx512.hpp"

namespace tersor::hash {
namespace {

void accumulate(Accumulators& sums, const std::uint8_t* in, std::size_t stripes,
                const std::uint8_t* secret) noexcept {
    __m512i sum = _mm512_load_si512(sums.data());
    std::size_t left = stripes;
    while (left > 0) {
        const std::size_t count = left < stripes_per_block ? left : stripes_per_block;
        for (std::size_t s = 0; s < count; ++s, in += stripe) {
            const __m512i value = _mm512_loadu_si512(in);
            const __m512i keyed = _mm512_xor_si512(value, _mm512_loadu_si512(secret + 8 * s));
            const __m512i product = _mm512_mul_epu32(keyed, _mm512_srli_epi64(keyed, 32));
            // Each value goes to the sum beside its own.
            const __m512i beside = _mm512_shuffle_epi32(value, _MM_PERM_BADC);
            sum = _mm512_add_epi64(sum, _mm512_add_epi64(product, beside));
        }
        left -= count;
        if (count < stripes_per_block) break;
        const __m512i key = _mm512_loadu_si512(secret + secret_size - stripe);
        sum = _mm512_ternarylogic_epi64(sum, _mm512_srli_epi64(sum, 47), key, 0x96);
        sum = _mm512_mullo_epi64(sum, _mm512_set1_epi64(prime32_1));
    }
    _mm512_store_si512(sums.data(), sum);
}

}  // namespace

void install(dispatch::Level<Isa::avx512>, Kernels& kernels) noexcept {
    kernels.accumulate = accumulate;
}

}  // namespace tersor::hash

#include "dispatch/target_end.hpp"

#endif
