#include "dispatch/architecture.hpp"
#include "rows/kernels.hpp"

#if TERSOR_X86

#include <immintrin.h>

#include <cstring>

#include "dispatch/target_avx2.hpp"

namespace tersor::rows {
namespace {

/// A group at a time: its codes are deposited into a byte each, and their values gathered.
void decode_row(const std::uint8_t* codes, const Codebook& codebook, float factor, std::size_t size,
                float* out) noexcept {
    const auto bits = static_cast<unsigned>(codebook.bits);
    const std::uint64_t places = 0x0101010101010101U * ((1U << bits) - 1);
    const __m256 scale = _mm256_set1_ps(factor);
    const auto decode = [&](std::size_t i) {
        std::uint64_t word = 0;
        std::memcpy(&word, codes + i / group * bits, sizeof word);
        const auto bytes = static_cast<long long>(_pdep_u64(word, places));
        const __m256i index = _mm256_cvtepu8_epi32(_mm_cvtsi64_si128(bytes));
        return _mm256_mul_ps(scale, _mm256_i32gather_ps(codebook.values, index, 4));
    };
    std::size_t i = 0;
    for (; i + group <= size; i += group) _mm256_storeu_ps(out + i, decode(i));
    if (i < size) {
        alignas(32) float last[group];
        _mm256_store_ps(last, decode(i));
        std::memcpy(out + i, last, (size - i) * sizeof(float));
    }
}

}  // namespace

void install(dispatch::Level<Isa::avx2>, Kernels& kernels) noexcept {
    kernels.decode_row = decode_row;
}

}  // namespace tersor::rows

#include "dispatch/target_end.hpp"

#endif
