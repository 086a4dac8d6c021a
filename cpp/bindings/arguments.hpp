// Arguments that products and convolutions share: names of classes and activations, raw addresses.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "tersor/epilogue.hpp"
#include "tersor/spmm.hpp"

namespace tersor::bindings {

/// Throws std::invalid_argument for an unknown name.
[[nodiscard]] Precision parse_precision(const std::string& name);
[[nodiscard]] Activation parse_activation(const std::string& name);

/// Which of the arrays of a product hold bfloat16 instead of float32: a sum of these.
enum Bfloat16Arrays : std::uint8_t {
    x_is_bfloat16 = 1,
    bias_is_bfloat16 = 2,
    residual_is_bfloat16 = 4,
    y_is_bfloat16 = 8,
};

/// `size` elements at a raw address; none where the address is 0.
[[nodiscard]] FloatView view_at(std::uintptr_t address, std::size_t size, bool bfloat16);
[[nodiscard]] FloatSpan span_at(std::uintptr_t address, std::size_t size, bool bfloat16);

}  // namespace tersor::bindings
