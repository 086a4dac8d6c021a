// AVX2: one entry of a panel block against 16 or 32 vectors, and transposition.
#include "dispatch/architecture.hpp"
#include "spmm/kernels.hpp"

#if TERSOR_X86

#include <immintrin.h>

#include "dispatch/target_avx2.hpp"

namespace tersor::spmm {
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

void multiply_panel_block(const std::uint16_t* begin, const std::uint16_t* end,
                          const float* codebook, const float* panel, std::size_t lanes,
                          float* sums) noexcept {
    if (lanes == 16) block<2>(begin, end, codebook, panel, lanes, sums);
    // Sixteen registers hold the two sums of 32 lanes and no more.
    for (std::size_t lane = 0; lane + 32 <= lanes; lane += 32) {
        block<4>(begin, end, codebook, panel + lane, lanes, sums + lane);
    }
}

void transpose_registers(__m256 (&r)[8]) noexcept {
    __m256 t[8];
    for (int i = 0; i < 4; ++i) {
        t[2 * i] = _mm256_unpacklo_ps(r[2 * i], r[2 * i + 1]);
        t[2 * i + 1] = _mm256_unpackhi_ps(r[2 * i], r[2 * i + 1]);
    }
    for (int i = 0; i < 2; ++i) {
        for (int k = 0; k < 2; ++k) {
            r[4 * i + 2 * k] = _mm256_shuffle_ps(t[4 * i + k], t[4 * i + 2 + k], 0x44);
            r[4 * i + 2 * k + 1] = _mm256_shuffle_ps(t[4 * i + k], t[4 * i + 2 + k], 0xee);
        }
    }
    for (int i = 0; i < 4; ++i) {
        const __m256 low = _mm256_permute2f128_ps(r[i], r[4 + i], 0x20);
        t[4 + i] = _mm256_permute2f128_ps(r[i], r[4 + i], 0x31);
        t[i] = low;
    }
    for (int i = 0; i < 8; ++i) r[i] = t[i];
}

/// Along the longer side, so that 8 streams are read or written from end to end.
void transpose(const float* from, std::size_t from_stride, std::size_t rows, std::size_t cols,
               float* to, std::size_t to_stride) noexcept {
    constexpr std::size_t side = 8;
    const std::size_t whole_rows = rows / side * side;
    const std::size_t whole_cols = cols / side * side;
    const auto square = [&](std::size_t r, std::size_t c) {
        __m256 registers[side];
        for (std::size_t i = 0; i < side; ++i) {
            registers[i] = _mm256_loadu_ps(from + (r + i) * from_stride + c);
        }
        transpose_registers(registers);
        for (std::size_t i = 0; i < side; ++i) {
            _mm256_storeu_ps(to + (c + i) * to_stride + r, registers[i]);
        }
    };
    if (rows < cols) {
        for (std::size_t r = 0; r < whole_rows; r += side) {
            for (std::size_t c = 0; c < whole_cols; c += side) square(r, c);
        }
    } else {
        for (std::size_t c = 0; c < whole_cols; c += side) {
            for (std::size_t r = 0; r < whole_rows; r += side) square(r, c);
        }
    }
    for (std::size_t r = 0; r < rows; ++r) {
        for (std::size_t c = r < whole_rows ? whole_cols : 0; c < cols; ++c) {
            to[c * to_stride + r] = from[r * from_stride + c];
        }
    }
}

}  // namespace

void install_panels_avx2(Kernels& kernels) noexcept {
    kernels.multiply_panel_block = multiply_panel_block;
    kernels.transpose = transpose;
}

}  // namespace tersor::spmm

#include "dispatch/target_end.hpp"

#else

namespace tersor::spmm {
void install_panels_avx2(Kernels&) noexcept {}
}  // namespace tersor::spmm

#endif
