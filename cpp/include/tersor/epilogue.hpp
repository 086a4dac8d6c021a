// The element types of activations, and what is done with a product before it is written.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace tersor {

/// The upper half of a float32.
struct BFloat16 {
    std::uint16_t bits = 0;
};

enum class FloatType : std::uint8_t { float32, bfloat16 };

/// Elements of either type, to be read.
struct FloatView {
    const void* data = nullptr;
    std::size_t size = 0;
    FloatType type = FloatType::float32;

    FloatView() = default;
    FloatView(std::span<const float> values) noexcept : data(values.data()), size(values.size()) {}
    FloatView(std::span<const BFloat16> values) noexcept
        : data(values.data()), size(values.size()), type(FloatType::bfloat16) {}
};

/// Elements of either type, to be written.
struct FloatSpan {
    void* data = nullptr;
    std::size_t size = 0;
    FloatType type = FloatType::float32;

    FloatSpan(std::span<float> values) noexcept : data(values.data()), size(values.size()) {}
    FloatSpan(std::span<BFloat16> values) noexcept
        : data(values.data()), size(values.size()), type(FloatType::bfloat16) {}
};

/// As torch.nn.functional has them; `gelu` is x times the normal distribution function of x.
enum class Activation : std::uint8_t { none, relu, relu6, gelu, silu };

/// y = activation(product + bias + residual), in fp32, rounded once more where y is bfloat16.
/// What is empty is left out. Beside the product's own error, gelu and silu are within 4 * 2^-23 of
/// |product + bias + residual|; NaN stays NaN, and so becomes -infinity in gelu and silu.
struct Epilogue {
    FloatView bias;  // [rows]
    Activation activation = Activation::none;
    FloatView residual;  // of y's size
};

}  // namespace tersor
