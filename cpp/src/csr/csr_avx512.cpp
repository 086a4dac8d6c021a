#include "csr/kernels.hpp"
#include "dispatch/architecture.hpp"

#if TERSOR_X86

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

}  // namespace

void install_avx512(Kernels& kernels) noexcept { kernels.nonzero_bitmap = nonzero_bitmap; }

}  // namespace tersor::csr

#include "dispatch/target_end.hpp"

#else

namespace tersor::csr {
void install_avx512(Kernels&) noexcept {}
}  // namespace tersor::csr

#endif
