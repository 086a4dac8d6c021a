// The kernels of csr16, a register at a time: each level includes this file inside its target
// region, after its simd.hpp.
//
// One vector: a row gathers its activations, which the load ports bound, at one element each.
// Batches: one weight against 32 lanes, a load and a multiply-add for each register of them.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "spmm/csr16/kernels.hpp"

namespace tersor::spmm::csr16 {
namespace {  // NOLINT(google-build-namespaces): compiled anew for each level

using simd::F32;
using simd::width;

/// Sums side by side, each of which waits for its own additions alone.
constexpr std::size_t chains = simd::has_masks ? 1 : 2;

/// Terms that are summed at a time: short registers leave long chains.
constexpr std::uint64_t terms_at_once = width * chains < 16 ? fold_terms : UINT64_MAX;

template <bool shared>
F32 weights(const BlockView& block, std::uint64_t i) noexcept {
    if constexpr (shared) return simd::look_up(block.values, block.codes + i);
    return simd::load(block.values + i);
}

/// The products of the entries [begin, end).
template <bool shared>
float dot(const BlockView& block, std::uint64_t begin, std::uint64_t end, const float* x) noexcept {
    F32 sums[chains];
    for (F32& sum : sums) sum = simd::zero();
    std::uint64_t i = begin;
    for (; i + width * chains <= end; i += width * chains) {
        for (std::size_t c = 0; c < chains; ++c) {
            const std::uint64_t at = i + c * width;
            sums[c] =
                simd::fma(weights<shared>(block, at), simd::gather(x, block.columns + at), sums[c]);
        }
    }
    if constexpr (simd::has_masks) {
        if (i < end) {
            const auto n = static_cast<std::size_t>(end - i);
            F32 w;
            if constexpr (shared) {
                w = simd::look_up_part(block.values, block.codes + i, n);
            } else {
                w = simd::load_part(block.values + i, n);
            }
            sums[0] = simd::fma(w, simd::gather_part(x, block.columns + i, n), sums[0]);
        }
        return simd::sum(sums[0]);
    } else {
        float sum = simd::sum(sums[0] + sums[1]);
        for (; i < end; ++i) sum += block.weight<shared>(i) * x[block.columns[i]];
        return sum;
    }
}

template <bool shared>
void vector_rows(const BlockView& block, const float* x, float* y, std::size_t row_begin,
                 std::size_t row_end) noexcept {
    for (std::size_t r = row_begin; r < row_end; ++r) {
        const std::uint64_t end = block.row_starts[r + 1];
        std::uint64_t i = block.row_starts[r];
        do {
            const std::uint64_t stop = end - i > terms_at_once ? i + terms_at_once : end;
            y[r] += dot<shared>(block, i, stop, x);
            i = stop;
        } while (i < end);
    }
}

template <bool shared>
void panel_rows(const BlockView& block, const float* panel, const std::size_t* offsets, float* y,
                std::size_t stride, std::size_t row_begin, std::size_t row_end) noexcept {
    constexpr std::size_t registers = panel_lanes / width;
    for (std::size_t r = row_begin; r < row_end; ++r) {
        float* out = y + r * stride;
        const std::uint64_t end = block.row_starts[r + 1];
        for (std::uint64_t i = block.row_starts[r]; i < end;) {
            const std::uint64_t stop = std::min(end, i + fold_terms);
            F32 sums[registers];
            for (F32& sum : sums) sum = simd::zero();
            for (; i < stop; ++i) {
                const F32 w = simd::splat(block.weight<shared>(i));
                const float* x = panel + offsets[block.columns[i]];
#pragma GCC unroll 8
                for (std::size_t v = 0; v < registers; ++v) {
                    sums[v] = simd::fma(w, simd::load(x + v * width), sums[v]);
                }
            }
            for (std::size_t v = 0; v < registers; ++v) {
                simd::store(out + v * width, simd::load(out + v * width) + sums[v]);
            }
        }
    }
}

inline void multiply_vector(const BlockView& block, const float* x, float* y, std::size_t row_begin,
                            std::size_t row_end) noexcept {
    const auto rows = block.codes != nullptr ? vector_rows<true> : vector_rows<false>;
    rows(block, x, y, row_begin, row_end);
}

inline void multiply_panel(const BlockView& block, const float* panel, const std::size_t* offsets,
                           float* y, std::size_t stride, std::size_t row_begin,
                           std::size_t row_end) noexcept {
    const auto rows = block.codes != nullptr ? panel_rows<true> : panel_rows<false>;
    rows(block, panel, offsets, y, stride, row_begin, row_end);
}

inline void sum_by_code(const BlockView& block, std::uint64_t begin, std::uint64_t end,
                        const float* panel, const float* gradient, float* sums) noexcept {
    constexpr std::size_t registers = panel_lanes / width;
    F32 factors[registers];
    for (std::size_t v = 0; v < registers; ++v) factors[v] = simd::load(gradient + v * width);
    for (std::uint64_t i = begin; i < end; ++i) {
        const float* x = panel + block.columns[i] * panel_lanes;
        float* sum = sums + block.codes[i] * panel_lanes;
#pragma GCC unroll 8
        for (std::size_t v = 0; v < registers; ++v) {
            simd::store(sum + v * width, simd::fma(simd::load(x + v * width), factors[v],
                                                   simd::load(sum + v * width)));
        }
    }
}

}  // namespace
}  // namespace tersor::spmm::csr16
