#include "dispatch/architecture.hpp"
#include "hash/kernels.hpp"

#if TERSOR_X86

#include <immintrin.h>

#include "dispatch/target_avx2.hpp"

namespace tersor::hash {
namespace {

inline __m256i load(const void* p) noexcept {
    return _mm256_loadu_si256(static_cast<const __m256i*>(p));
}

/// The low 64 bits of each product with the prime.
inline __m256i times_prime(__m256i x) noexcept {
    const __m256i prime = _mm256_set1_epi64x(prime32_1);
    const __m256i high = _mm256_mul_epu32(_mm256_srli_epi64(x, 32), prime);
    return _mm256_add_epi64(_mm256_mul_epu32(x, prime), _mm256_slli_epi64(high, 32));
}

void accumulate(Accumulators& sums, const std::uint8_t* in, std::size_t stripes,
                const std::uint8_t* secret) noexcept {
    __m256i sum[2] = {load(sums.data()), load(sums.data() + 4)};
    for (std::size_t s = 0; s < stripes; ++s, in += stripe) {
        const std::size_t in_block = s % stripes_per_block;
#pragma GCC unroll 2
        for (std::size_t half = 0; half < 2; ++half) {
            const __m256i value = load(in + 32 * half);
            const __m256i keyed = _mm256_xor_si256(value, load(secret + 8 * in_block + 32 * half));
            const __m256i product = _mm256_mul_epu32(keyed, _mm256_srli_epi64(keyed, 32));
            // Each value goes to the sum beside its own.
            const __m256i beside = _mm256_shuffle_epi32(value, _MM_SHUFFLE(1, 0, 3, 2));
            sum[half] = _mm256_add_epi64(sum[half], _mm256_add_epi64(product, beside));
        }
        if (in_block != stripes_per_block - 1) continue;
#pragma GCC unroll 2
        for (std::size_t half = 0; half < 2; ++half) {
            const __m256i key = load(secret + secret_size - stripe + 32 * half);
            const __m256i mixed = _mm256_xor_si256(
                _mm256_xor_si256(sum[half], _mm256_srli_epi64(sum[half], 47)), key);
            sum[half] = times_prime(mixed);
        }
    }
    _mm256_store_si256(reinterpret_cast<__m256i*>(sums.data()), sum[0]);
    _mm256_store_si256(reinterpret_cast<__m256i*>(sums.data() + 4), sum[1]);
}

}  // namespace

void install(dispatch::Level<Isa::avx2>, Kernels& kernels) noexcept {
    kernels.accumulate = accumulate;
}

}  // namespace tersor::hash

#include "dispatch/target_end.hpp"

#endif
