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

}  // namespace

void install_avx2(Kernels& kernels) noexcept { kernels.nonzero_bitmap = nonzero_bitmap; }

}  // namespace tersor::csr

#include "dispatch/target_end.hpp"

#else

namespace tersor::csr {
void install_avx2(Kernels&) noexcept {}
}  // namespace tersor::csr

#endif
