// The epilogue of products, a register at a time: each level includes this file inside its target
// region, after its simd.hpp.
//
// Bound by memory but for GELU and SiLU, which take some 25 multiply-adds for a register: exp by a
// polynomial after Cody and Waite's reduction by log 2, no table and no branch.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "spmm/epilogue/formulas.hpp"
#include "spmm/epilogue/kernels.hpp"

namespace tersor::spmm::epilogue {
namespace {  // NOLINT(google-build-namespaces): compiled anew for each level

using simd::F32;

template <std::size_t size>
F32 polynomial(const std::array<float, size>& coefficients, F32 x) noexcept {
    F32 sum = simd::splat(coefficients[size - 1]);
    for (std::size_t i = size - 1; i-- > 0;) sum = simd::fma(sum, x, simd::splat(coefficients[i]));
    return sum;
}

/// exp(x) for x <= 0; anything for NaN.
inline F32 exp_negative(F32 x) noexcept {
    x = simd::max(x, simd::splat(exp_floor));
    const F32 n = simd::round(x * simd::splat(log2_e));
    F32 r = simd::fnma(n, simd::splat(log2_high), x);
    r = simd::fnma(n, simd::splat(log2_low), r);
    return simd::times_power_of_two(polynomial(exp_polynomial, r), n);
}

inline F32 gelu(F32 x) noexcept {
    const F32 one = simd::splat(1.0F);
    const F32 u = simd::magnitude(x);
    const F32 t = one / simd::fma(u, simd::splat(tail_scale), one);
    const F32 power = exp_negative(u * simd::splat(-0.5F) * u);
    const F32 tail = power * polynomial(tail_polynomial, t);
    return x * simd::where_negative(x, tail, one - tail);
}

inline F32 silu(F32 x) noexcept {
    const F32 one = simd::splat(1.0F);
    const F32 power = exp_negative(simd::zero() - simd::magnitude(x));
    return x * (simd::where_negative(x, power, one) / (one + power));
}

/// Of a maximum or minimum with NaN the second operand is the result.
template <Activation activation>
F32 activate(F32 x) noexcept {
    if constexpr (activation == Activation::relu) return simd::max(simd::zero(), x);
    if constexpr (activation == Activation::relu6) {
        return simd::min(simd::splat(6.0F), simd::max(simd::zero(), x));
    }
    if constexpr (activation == Activation::gelu) return gelu(x);
    if constexpr (activation == Activation::silu) return silu(x);
    return x;
}

/// What is read and written at once: a register, or its first elements at the end of a row.
struct Whole {
    F32 load(const float* from) const noexcept { return simd::load(from); }
    F32 load(const std::uint16_t* from) const noexcept { return simd::load_bfloat16(from); }
    void store(float* to, F32 x) const noexcept { simd::store(to, x); }
    void store(std::uint16_t* to, F32 x) const noexcept { simd::store_bfloat16(to, x); }
};
struct Part {
    std::size_t n;

    F32 load(const float* from) const noexcept { return simd::load_part(from, n); }
    F32 load(const std::uint16_t* from) const noexcept { return simd::load_bfloat16_part(from, n); }
    void store(float* to, F32 x) const noexcept { simd::store_part(to, x, n); }
    void store(std::uint16_t* to, F32 x) const noexcept { simd::store_bfloat16_part(to, x, n); }
};

template <Activation activation, class Size>
void apply_at(Size size, const float* products, std::size_t i, const void* residual,
              FloatType residual_type, void* y, FloatType y_type) noexcept {
    F32 values = size.load(products + i);
    if (residual != nullptr) {
        values = values + (residual_type == FloatType::float32
                               ? size.load(static_cast<const float*>(residual) + i)
                               : size.load(static_cast<const std::uint16_t*>(residual) + i));
    }
    values = activate<activation>(values);
    if (y_type == FloatType::float32) {
        size.store(static_cast<float*>(y) + i, values);
    } else {
        size.store(static_cast<std::uint16_t*>(y) + i, values);
    }
}

template <Activation activation>
void apply_as(const float* products, std::size_t size, const void* residual,
              FloatType residual_type, void* y, FloatType y_type) noexcept {
    std::size_t i = 0;
    for (; i + simd::width <= size; i += simd::width) {
        apply_at<activation>(Whole{}, products, i, residual, residual_type, y, y_type);
    }
    if (i < size) {
        apply_at<activation>(Part{size - i}, products, i, residual, residual_type, y, y_type);
    }
}

inline void apply(const float* products, std::size_t size, Activation activation,
                  const void* residual, FloatType residual_type, void* y,
                  FloatType y_type) noexcept {
    const auto run = [&](auto kernel) {
        kernel(products, size, residual, residual_type, y, y_type);
    };
    switch (activation) {
        case Activation::none: return run(apply_as<Activation::none>);
        case Activation::relu: return run(apply_as<Activation::relu>);
        case Activation::relu6: return run(apply_as<Activation::relu6>);
        case Activation::gelu: return run(apply_as<Activation::gelu>);
        case Activation::silu: return run(apply_as<Activation::silu>);
    }
}

}  // namespace
}  // namespace tersor::spmm::epilogue
