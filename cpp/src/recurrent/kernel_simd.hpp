// The gates, a register at a time: each level includes this file inside its target region, after
// its simd_<isa>.hpp.
//
// Bound by arithmetic: exp and a division for each gate, some 20 multiply-adds a register.
#pragma once

#include <cstddef>
#include <iterator>

#include "recurrent/kernels.hpp"
#include "simd/extent.hpp"
#include "spmm/epilogue/exp_simd.hpp"

namespace tersor::recurrent {
namespace {  // NOLINT(google-build-namespaces): compiled anew for each level

using simd::F32;
using spmm::epilogue::exp_negative;

/// 1 / (1 + exp(-x)), from exp(-|x|), which does not overflow.
inline F32 sigmoid(F32 x) noexcept {
    const F32 one = simd::splat(1.0F);
    const F32 power = exp_negative(simd::zero() - simd::magnitude(x));
    return simd::where_negative(x, power, one) / (one + power);
}

inline F32 tanh_of(F32 x) noexcept {
    const F32 one = simd::splat(1.0F);
    const F32 u = simd::magnitude(x);
    const F32 power = exp_negative(simd::splat(-2.0F) * u);
    const F32 far = simd::with_sign_of(x, (one - power) / (one + power));
    const F32 square = x * x;
    F32 sum = simd::splat(tanh_series[std::size(tanh_series) - 1]);
    for (std::size_t i = std::size(tanh_series) - 1; i-- > 0;) {
        sum = simd::fma(sum, square, simd::splat(tanh_series[i]));
    }
    return simd::where_less(u, simd::splat(tanh_series_below), sum * x, far);
}

inline void lstm(const float* gates, std::size_t size, float* c, float* h) noexcept {
    simd::for_each_register(size, [&](std::size_t i, auto extent) noexcept {
        const F32 in = sigmoid(extent.load(gates + i));
        const F32 forget = sigmoid(extent.load(gates + size + i));
        const F32 cell = tanh_of(extent.load(gates + 2 * size + i));
        const F32 out = sigmoid(extent.load(gates + 3 * size + i));
        const F32 state = simd::fma(forget, extent.load(c + i), in * cell);
        extent.store(c + i, state);
        extent.store(h + i, out * tanh_of(state));
    });
}

inline void gru(const float* x, const float* y, std::size_t size, float* h) noexcept {
    simd::for_each_register(size, [&](std::size_t i, auto extent) noexcept {
        const auto sum = [&](std::size_t gate) noexcept {
            const std::size_t at = gate * size + i;
            return extent.load(x + at) + extent.load(y + at);
        };
        const F32 reset = sigmoid(sum(0));
        const F32 update = sigmoid(sum(1));
        const std::size_t last = 2 * size + i;
        const F32 fresh = tanh_of(simd::fma(reset, extent.load(y + last), extent.load(x + last)));
        extent.store(h + i, simd::fma(update, extent.load(h + i) - fresh, fresh));
    });
}

inline void tanh(const float* gate, std::size_t size, float* h) noexcept {
    simd::for_each_register(size, [&](std::size_t i, auto extent) noexcept {
        extent.store(h + i, tanh_of(extent.load(gate + i)));
    });
}

}  // namespace
}  // namespace tersor::recurrent
