// The epilogue of products, portable; exp and erf in double.
#include <bit>
#include <cmath>

#include "spmm/epilogue/kernels.hpp"

namespace tersor::spmm::epilogue {
namespace {

float widen(std::uint16_t bits) noexcept {
    return std::bit_cast<float>(std::uint32_t{bits} << 16U);
}

/// To the nearest, ties to even; NaN stays NaN.
std::uint16_t narrow(float value) noexcept {
    const auto bits = std::bit_cast<std::uint32_t>(value);
    if (std::isnan(value)) return static_cast<std::uint16_t>(bits >> 16U | 0x40U);
    return static_cast<std::uint16_t>((bits + 0x7fffU + (bits >> 16U & 1U)) >> 16U);
}

// Comparisons are such that NaN passes.
float activate(float x, Activation activation) noexcept {
    switch (activation) {
        case Activation::none: return x;
        case Activation::relu: return x < 0.0F ? 0.0F : x;
        case Activation::relu6: return x < 0.0F ? 0.0F : x > 6.0F ? 6.0F : x;
        case Activation::gelu: return static_cast<float>(x * (0.5 * std::erfc(-x * M_SQRT1_2)));
        case Activation::silu: return static_cast<float>(x / (1.0 + std::exp(-double{x})));
    }
    return x;
}

float read(const void* from, FloatType type, std::size_t i) noexcept {
    return type == FloatType::float32 ? static_cast<const float*>(from)[i]
                                      : widen(static_cast<const std::uint16_t*>(from)[i]);
}

void apply(const float* products, std::size_t size, Activation activation, const Operands& with,
           void* y, FloatType y_type) noexcept {
    for (std::size_t i = 0; i < size; ++i) {
        float value = products[i];
        if (with.factors != nullptr) value *= with.factors[i];
        if (with.bias != nullptr) value += with.bias[i];
        if (with.residual != nullptr) value += read(with.residual, with.residual_type, i);
        value = activate(value, activation);
        if (y_type == FloatType::float32) {
            static_cast<float*>(y)[i] = value;
        } else {
            static_cast<std::uint16_t*>(y)[i] = narrow(value);
        }
    }
}

}  // namespace

void install(dispatch::Level<Isa::scalar>, Kernels& kernels) noexcept { kernels.apply = apply; }

}  // namespace tersor::spmm::epilogue
