// What is done with sums before they are written.
#pragma once

#include <limits>

#include "conv/kernels.hpp"
#include "spmm/epilogue/outputs.hpp"

namespace tersor::conv {

inline constexpr float infinity = std::numeric_limits<float>::infinity();

/// Whether a store can do all that is left to do with a sum.
[[nodiscard]] inline bool clamps(const spmm::Outputs& out) noexcept {
    return out.y_type == FloatType::float32 && out.residual == nullptr &&
           (out.activation == Activation::none || out.activation == Activation::relu ||
            out.activation == Activation::relu6);
}
inline void add_clamp(const spmm::Outputs& out, Finishing& finishing) noexcept {
    if (out.activation != Activation::none) finishing.low = 0.0F;
    if (out.activation == Activation::relu6) finishing.high = 6.0F;
}

}  // namespace tersor::conv
