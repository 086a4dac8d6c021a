// Products of a few vectors in fixed point from the layout sell.
#pragma once

#include <span>

#include "spmm/activations/kernels.hpp"
#include "spmm/epilogue/outputs.hpp"
#include "spmm/packed_matrix.hpp"

namespace tersor::spmm {

/// Vectors whose limbs are made at a time: all that are left by panels, so that threads meet once.
inline constexpr std::size_t items_at_once = 40;

/// Vectors that are looked at together for an arithmetic.
inline constexpr std::size_t items_alike = 8;

/// Whether fixed point stays within fp32's normal numbers for any vector of usual size: else fp32
/// kernels are faster than to look at each.
[[nodiscard]] bool fits_fixed_point(const Sell& layout) noexcept;

/// The same for the matrix and one vector, which has to be finite: its scale, the units of products
/// and what is added up of them.
[[nodiscard]] bool fits_fixed_point(const Sell& layout, const Range& range) noexcept;

/// Up to `items_at_once` vectors in fixed point, whose ranges fit it.
void multiply_fixed(const PackedMatrix::Layout& layout, const Sell& sell, Arithmetic arithmetic,
                    std::span<const Range> ranges, const float* x, const Outputs& out, int threads);

/// What follows the fixed-point sums of a vector: in the finest arithmetic the rows that need it
/// are computed again and the bias is added; then the outputs are finished.
void finish_fixed(const PackedMatrix::Layout& layout, const Sell& sell, Arithmetic arithmetic,
                  const Range& range, const float* x, const Outputs& out);

}  // namespace tersor::spmm
