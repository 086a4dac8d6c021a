// The epilogue of products, a register at a time: each level includes this file inside its target
// region, after its simd.hpp.
//
// Bound by memory but for GELU and SiLU, which take some 25 multiply-adds for a register: exp by a
// polynomial after Cody and Waite's reduction by log 2, no table and no branch.
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>

#include "simd/extent.hpp"
#include "spmm/epilogue/exp_simd.hpp"
#include "spmm/epilogue/kernels.hpp"

namespace tersor::spmm::epilogue {
namespace {  // NOLINT(google-build-namespaces): compiled anew for each level

struct Gelu {
    F32 operator()(F32 x) const noexcept {
        const F32 one = simd::splat(1.0F);
        const F32 u = simd::magnitude(x);
        const F32 t = one / simd::fma(u, simd::splat(tail_scale), one);
        const F32 power = exp_negative(u * simd::splat(-0.5F) * u);
        const F32 tail = power * polynomial(tail_polynomial, t);
        return x * simd::where_negative(x, tail, one - tail);
    }
};

struct Silu {
    F32 operator()(F32 x) const noexcept {
        const F32 one = simd::splat(1.0F);
        const F32 power = exp_negative(simd::zero() - simd::magnitude(x));
        return x * (simd::where_negative(x, power, one) / (one + power));
    }
};

/// What is linear between two bounds. Of a maximum or minimum with NaN the second operand is the
/// result.
struct Clamp {
    F32 low;
    F32 high;

    F32 operator()(F32 x) const noexcept { return simd::min(high, simd::max(low, x)); }
};

template <class Extent>
F32 load_as(const Extent& extent, const void* from, FloatType type, std::size_t i) noexcept {
    if (type == FloatType::float32) return extent.load(static_cast<const float*>(from) + i);
    return extent.load(static_cast<const std::uint16_t*>(from) + i);
}

template <class Activate>
void apply_as(const Activate& activate, const float* products, std::size_t size,
              const Operands& with, void* y, FloatType y_type) noexcept {
    simd::for_each_register(size, [&](std::size_t i, auto extent) noexcept {
        F32 values = extent.load(products + i);
        if (with.factors != nullptr) {
            const F32 bias = with.bias != nullptr ? extent.load(with.bias + i) : simd::zero();
            values = simd::fma(values, extent.load(with.factors + i), bias);
        }
        if (with.residual != nullptr) {
            values = values + load_as(extent, with.residual, with.residual_type, i);
        }
        values = activate(values);
        if (y_type == FloatType::float32) {
            extent.store(static_cast<float*>(y) + i, values);
        } else {
            extent.store(static_cast<std::uint16_t*>(y) + i, values);
        }
    });
}

inline void apply(const float* products, std::size_t size, Activation activation,
                  const Operands& with, void* y, FloatType y_type) noexcept {
    const auto run = [&](const auto& activate) noexcept {
        apply_as(activate, products, size, with, y, y_type);
    };
    if (activation == Activation::gelu) return run(Gelu{});
    if (activation == Activation::silu) return run(Silu{});
    constexpr float infinity = std::numeric_limits<float>::infinity();
    run(Clamp{simd::splat(activation == Activation::none ? -infinity : 0.0F),
              simd::splat(activation == Activation::relu6 ? 6.0F : infinity)});
}

}  // namespace
}  // namespace tersor::spmm::epilogue
