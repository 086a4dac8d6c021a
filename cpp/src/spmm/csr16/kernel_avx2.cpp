// AVX2: eight weights at a time against gathered activations, or one weight against 32 lanes.
#include "dispatch/architecture.hpp"
#include "spmm/csr16/kernels.hpp"

#if TERSOR_X86

#include <immintrin.h>

#include <algorithm>

#include "dispatch/target_avx2.hpp"

namespace tersor::spmm::csr16 {
namespace {

template <bool shared>
__m256 weights(const BlockView& block, std::uint64_t i) noexcept {
    if constexpr (shared) {
        const __m128i bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(block.codes + i));
        return _mm256_i32gather_ps(block.values, _mm256_cvtepu8_epi32(bytes), 4);
    }
    return _mm256_loadu_ps(block.values + i);
}

__m256 activations(const BlockView& block, std::uint64_t i, const float* x) noexcept {
    const __m128i columns = _mm_loadu_si128(reinterpret_cast<const __m128i*>(block.columns + i));
    return _mm256_i32gather_ps(x, _mm256_cvtepu16_epi32(columns), 4);
}

float sum_of(__m256 v) noexcept {
    const __m128 half = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    const __m128 quarter = _mm_add_ps(half, _mm_movehl_ps(half, half));
    return _mm_cvtss_f32(_mm_add_ss(quarter, _mm_movehdup_ps(quarter)));
}

template <bool shared>
void vector_rows(const BlockView& block, const float* x, float* y, std::size_t row_begin,
                 std::size_t row_end) noexcept {
    for (std::size_t r = row_begin; r < row_end; ++r) {
        std::uint64_t i = block.row_starts[r];
        const std::uint64_t end = block.row_starts[r + 1];
        __m256 even = _mm256_setzero_ps();
        __m256 odd = _mm256_setzero_ps();
        for (; i + 16 <= end; i += 16) {
            even = _mm256_fmadd_ps(weights<shared>(block, i), activations(block, i, x), even);
            odd = _mm256_fmadd_ps(weights<shared>(block, i + 8), activations(block, i + 8, x), odd);
        }
        float sum = sum_of(_mm256_add_ps(even, odd));
        for (; i < end; ++i) sum += block.weight<shared>(i) * x[block.columns[i]];
        y[r] += sum;
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
            __m256 a = _mm256_setzero_ps(), b = a, c = a, d = a;
            for (; i < stop; ++i) {
                const __m256 w = _mm256_set1_ps(block.weight<shared>(i));
                const float* x = panel + offsets[block.columns[i]];
                a = _mm256_fmadd_ps(w, _mm256_loadu_ps(x), a);
                b = _mm256_fmadd_ps(w, _mm256_loadu_ps(x + 8), b);
                c = _mm256_fmadd_ps(w, _mm256_loadu_ps(x + 16), c);
                d = _mm256_fmadd_ps(w, _mm256_loadu_ps(x + 24), d);
            }
            _mm256_storeu_ps(out, _mm256_add_ps(_mm256_loadu_ps(out), a));
            _mm256_storeu_ps(out + 8, _mm256_add_ps(_mm256_loadu_ps(out + 8), b));
            _mm256_storeu_ps(out + 16, _mm256_add_ps(_mm256_loadu_ps(out + 16), c));
            _mm256_storeu_ps(out + 24, _mm256_add_ps(_mm256_loadu_ps(out + 24), d));
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
    constexpr std::size_t width = 8;
    __m256 factors[panel_lanes / width];
    for (std::size_t v = 0; v < panel_lanes / width; ++v) {
        factors[v] = _mm256_loadu_ps(gradient + v * width);
    }
    for (std::uint64_t i = begin; i < end; ++i) {
        const float* x = panel + block.columns[i] * panel_lanes;
        float* sum = sums + block.codes[i] * panel_lanes;
        for (std::size_t v = 0; v < panel_lanes / width; ++v) {
            const __m256 old = _mm256_loadu_ps(sum + v * width);
            _mm256_storeu_ps(sum + v * width,
                             _mm256_fmadd_ps(_mm256_loadu_ps(x + v * width), factors[v], old));
        }
    }
}

}  // namespace

void install(dispatch::Level<Isa::avx2>, Kernels& kernels) noexcept {
    kernels = {multiply_vector, multiply_panel, sum_by_code};
}

}  // namespace tersor::spmm::csr16

#include "dispatch/target_end.hpp"

#endif
