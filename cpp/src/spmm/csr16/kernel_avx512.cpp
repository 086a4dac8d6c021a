// AVX-512: sixteen weights at a time against gathered activations, masked at the end of a row, with
// the look-up of codebooks of up to 16 values inside a register; or one weight against 32 lanes.
#include "dispatch/architecture.hpp"
#include "spmm/csr16/kernels.hpp"

#if TERSOR_AVX512

#include <immintrin.h>

#include <algorithm>

#include "dispatch/target_avx512.hpp"

namespace tersor::spmm::csr16 {
namespace {

template <bool shared>
__m512 weights(const BlockView& block, std::uint64_t i, __mmask16 valid) noexcept {
    if constexpr (shared) {
        const __m512i codes = _mm512_cvtepu8_epi32(_mm_maskz_loadu_epi8(valid, block.codes + i));
        const __m512 first_16 = _mm512_permutexvar_ps(codes, _mm512_loadu_ps(block.values));
        const __mmask16 beyond = _mm512_cmpgt_epu32_mask(codes, _mm512_set1_epi32(15));
        if (beyond == 0) return first_16;
        return _mm512_mask_i32gather_ps(first_16, beyond, codes, block.values, 4);
    }
    return _mm512_maskz_loadu_ps(valid, block.values + i);
}

__m512 activations(const BlockView& block, std::uint64_t i, __mmask16 valid,
                   const float* x) noexcept {
    const __m256i columns = _mm256_maskz_loadu_epi16(valid, block.columns + i);
    return _mm512_mask_i32gather_ps(_mm512_setzero_ps(), valid, _mm512_cvtepu16_epi32(columns), x,
                                    4);
}

template <bool shared>
void vector_rows(const BlockView& block, const float* x, float* y, std::size_t row_begin,
                 std::size_t row_end) noexcept {
    constexpr __mmask16 all = 0xffff;
    for (std::size_t r = row_begin; r < row_end; ++r) {
        std::uint64_t i = block.row_starts[r];
        const std::uint64_t end = block.row_starts[r + 1];
        __m512 sums = _mm512_setzero_ps();
        for (; i + 16 <= end; i += 16) {
            sums = _mm512_fmadd_ps(weights<shared>(block, i, all), activations(block, i, all, x),
                                   sums);
        }
        if (i < end) {
            const auto valid = static_cast<__mmask16>((1U << (end - i)) - 1);
            sums = _mm512_mask3_fmadd_ps(weights<shared>(block, i, valid),
                                         activations(block, i, valid, x), sums, valid);
        }
        y[r] += _mm512_reduce_add_ps(sums);
    }
}

template <bool shared>
void panel_rows(const BlockView& block, const float* panel, const std::size_t* offsets, float* y,
                std::size_t stride, std::size_t row_begin, std::size_t row_end) noexcept {
    for (std::size_t r = row_begin; r < row_end; ++r) {
        float* out = y + r * stride;
        const std::uint64_t end = block.row_starts[r + 1];
        for (std::uint64_t i = block.row_starts[r]; i < end;) {
            const std::uint64_t stop = std::min(end, i + fold_terms);
            __m512 low = _mm512_setzero_ps();
            __m512 high = _mm512_setzero_ps();
            for (; i < stop; ++i) {
                const __m512 w = _mm512_set1_ps(block.weight<shared>(i));
                const float* x = panel + offsets[block.columns[i]];
                low = _mm512_fmadd_ps(w, _mm512_loadu_ps(x), low);
                high = _mm512_fmadd_ps(w, _mm512_loadu_ps(x + 16), high);
            }
            _mm512_storeu_ps(out, _mm512_add_ps(_mm512_loadu_ps(out), low));
            _mm512_storeu_ps(out + 16, _mm512_add_ps(_mm512_loadu_ps(out + 16), high));
        }
    }
}

void multiply_vector(const BlockView& block, const float* x, float* y, std::size_t row_begin,
                     std::size_t row_end) noexcept {
    const auto rows = block.codes != nullptr ? vector_rows<true> : vector_rows<false>;
    rows(block, x, y, row_begin, row_end);
}

void multiply_panel(const BlockView& block, const float* panel, const std::size_t* offsets,
                    float* y, std::size_t stride, std::size_t row_begin,
                    std::size_t row_end) noexcept {
    const auto rows = block.codes != nullptr ? panel_rows<true> : panel_rows<false>;
    rows(block, panel, offsets, y, stride, row_begin, row_end);
}

void sum_by_code(const BlockView& block, std::uint64_t begin, std::uint64_t end, const float* panel,
                 const float* gradient, float* sums) noexcept {
    constexpr std::size_t width = 16;
    __m512 factors[panel_lanes / width];
    for (std::size_t v = 0; v < panel_lanes / width; ++v) {
        factors[v] = _mm512_loadu_ps(gradient + v * width);
    }
    for (std::uint64_t i = begin; i < end; ++i) {
        const float* x = panel + block.columns[i] * panel_lanes;
        float* sum = sums + block.codes[i] * panel_lanes;
        for (std::size_t v = 0; v < panel_lanes / width; ++v) {
            const __m512 old = _mm512_loadu_ps(sum + v * width);
            _mm512_storeu_ps(sum + v * width,
                             _mm512_fmadd_ps(_mm512_loadu_ps(x + v * width), factors[v], old));
        }
    }
}

}  // namespace

void install(dispatch::Level<Isa::avx512>, Kernels& kernels) noexcept {
    kernels = {multiply_vector, multiply_panel, sum_by_code};
}

}  // namespace tersor::spmm::csr16

#include "dispatch/target_end.hpp"

#endif
