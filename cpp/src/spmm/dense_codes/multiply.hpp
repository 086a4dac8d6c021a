// Products with dense slices of integers in fp32.
#pragma once

#include <cstddef>

#include "spmm/epilogue/outputs.hpp"
#include "spmm/fixed_point.hpp"
#include "spmm/packed_matrix.hpp"

namespace tersor::spmm {

/// Whether sums over a vector of that range stay far from fp32's limits.
[[nodiscard]] bool fits_as_floats(const Sell& sell, const Range& range) noexcept;

/// y = W x + bias for `batch` vectors that fit, with the epilogue; the level has the kernel.
void multiply_as_floats(const PackedMatrix::Layout& layout, const Sell& sell, const float* x,
                        std::size_t batch, const Outputs& out, int threads);

}  // namespace tersor::spmm
