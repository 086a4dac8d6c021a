// AVX2: one entry of a panel block against 16 or 32 vectors.
#include "dispatch/architecture.hpp"
#include "spmm/panels/kernels.hpp"

#if TERSOR_X86

#include <immintrin.h>

#include "dispatch/target_avx2.hpp"

namespace tersor::spmm::panels {
namespace {

template <int registers>
void add(__m256 (&sums)[registers], unsigned entry, const float* codebook, const float* panel,
         std::size_t lanes) noexcept {
    const __m256 w = _mm256_broadcast_ss(codebook + (entry & 0xff));
    const float* x = panel + std::size_t{entry >> 8} * lanes;
    for (int i = 0; i < registers; ++i) {
        sums[i] = _mm256_fmadd_ps(w, _mm256_load_ps(x + 8 * i), sums[i]);
    }
}

/// `registers` of the registers that the lanes fill, beginning at panel[0] and sums[0].
template <int registers>
void block(const std::uint16_t* at, const std::uint16_t* end, const float* codebook,
           const float* panel, std::size_t lanes, float* sums) noexcept {
    while (at != end) {
        const std::size_t count = at[0];
        const std::size_t rows = at[1];
        at += 2;
        for (std::size_t r = 0; r < rows; ++r) {
            float* row_sums = sums + std::size_t{*at++} * lanes;
            _mm_prefetch(reinterpret_cast<const char*>(at + 256), _MM_HINT_T0);
            __m256 even[registers], odd[registers];
            for (int i = 0; i < registers; ++i) even[i] = odd[i] = _mm256_setzero_ps();
            std::size_t left = count;
            for (; left >= 2; left -= 2, at += 2) {
                add(even, at[0], codebook, panel, lanes);
                add(odd, at[1], codebook, panel, lanes);
            }
            if (left != 0) add(even, *at++, codebook, panel, lanes);
            for (int i = 0; i < registers; ++i) {
                const __m256 sum = _mm256_add_ps(even[i], odd[i]);
                _mm256_store_ps(row_sums + 8 * i,
                                _mm256_add_ps(_mm256_load_ps(row_sums + 8 * i), sum));
            }
        }
    }
}

void multiply_block(const std::uint16_t* begin, const std::uint16_t* end, const float* codebook,
                    const float* panel, std::size_t lanes, float* sums) noexcept {
    if (lanes == 16) block<2>(begin, end, codebook, panel, lanes, sums);
    // Sixteen registers hold the two sums of 32 lanes and no more.
    for (std::size_t lane = 0; lane + 32 <= lanes; lane += 32) {
        block<4>(begin, end, codebook, panel + lane, lanes, sums + lane);
    }
}

}  // namespace

void install(dispatch::Level<Isa::avx2>, Kernels& kernels) noexcept {
    kernels.multiply_block = multiply_block;
}

}  // namespace tersor::spmm::panels

#include "dispatch/target_end.hpp"

#endif
