#include "csr/kernels.hpp"
#include "dispatch/architecture.hpp"

#if TERSOR_X86

#include <immintrin.h>

#include <cstring>

#include "dispatch/target_avx2.hpp"

namespace tersor::csr {
namespace {

std::uint64_t zeros_of_32(const std::uint8_t* codes) noexcept {
    const __m256i v = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(codes));
    const __m256i zero = _mm256_cmpeq_epi8(v, _mm256_setzero_si256());
    return static_cast<std::uint32_t>(_mm256_movemask_epi8(zero));
}

void nonzero_bitmap(const std::uint8_t* codes, std::size_t size, std::uint64_t* bits) noexcept {
    std::size_t i = 0;
    for (; i + 64 <= size; i += 64) {
        bits[i / 64] = ~(zeros_of_32(codes + i) | (zeros_of_32(codes + i + 32) << 32));
    }
    if (i < size) {
        std::uint8_t tail[64] = {};
        std::memcpy(tail, codes + i, size - i);
        bits[i / 64] = ~(zeros_of_32(tail) | (zeros_of_32(tail + 32) << 32));
    }
}

FastVerdict validate_fast(const std::uint8_t* codes, const std::uint8_t* gaps, std::size_t size,
                          int index_bits, std::uint64_t sequence_length) noexcept {
    if (size == 0) return {true, 0};
    const __m256i filler_gap = _mm256_set1_epi8(static_cast<char>((1 << index_bits) - 1));
    const __m256i zero = _mm256_setzero_si256();
    __m256i advance = zero;
    __m256i faults = zero;
    std::size_t fillers = 0;
    const auto look = [&](const std::uint8_t* some_codes, const std::uint8_t* some_gaps) noexcept {
        const __m256i gap = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(some_gaps));
        const __m256i code = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(some_codes));
        const __m256i filler = _mm256_cmpeq_epi8(code, zero);
        // A gap is at most the filler's, and a filler's is just that.
        const __m256i other = _mm256_xor_si256(gap, filler_gap);
        faults = _mm256_or_si256(faults, _mm256_subs_epu8(gap, filler_gap));
        faults = _mm256_or_si256(faults, _mm256_and_si256(filler, other));
        advance = _mm256_add_epi64(advance, _mm256_sad_epu8(gap, zero));
        fillers += static_cast<unsigned>(
            _mm_popcnt_u32(static_cast<unsigned>(_mm256_movemask_epi8(filler))));
    };
    std::size_t i = 0;
    for (; i + 32 <= size; i += 32) look(codes + i, gaps + i);
    if (i < size) {
        std::uint8_t some_codes[32], some_gaps[32] = {};
        std::memset(some_codes, 1, sizeof some_codes);
        std::memcpy(some_codes, codes + i, size - i);
        std::memcpy(some_gaps, gaps + i, size - i);
        look(some_codes, some_gaps);
    }
    alignas(32) std::uint64_t sums[4];
    _mm256_store_si256(reinterpret_cast<__m256i*>(sums), advance);
    const std::uint64_t total = size + sums[0] + sums[1] + sums[2] + sums[3];
    return {
        _mm256_testz_si256(faults, faults) != 0 && codes[size - 1] != 0 && total <= sequence_length,
        size - fillers};
}

}  // namespace

void install(dispatch::Level<Isa::avx2>, Kernels& kernels) noexcept {
    kernels.nonzero_bitmap = nonzero_bitmap;
    kernels.validate_fast = validate_fast;
}

}  // namespace tersor::csr

#include "dispatch/target_end.hpp"

#endif
