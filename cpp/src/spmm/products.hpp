// The ways to compute a product with few vectors, or with plain weights; multiply_panels.hpp has
// the others. Each finishes its outputs.
#pragma once

#include <span>

#include "spmm/kernels.hpp"
#include "spmm/layout.hpp"
#include "spmm/outputs.hpp"

namespace tersor::spmm {

/// scaled = the vectors of x times the factors of the columns, which the matrix has.
void scale_columns(const PackedMatrix::Layout& layout, FloatView x, std::span<float> scaled,
                   int threads);

/// Vectors whose digits are made at a time.
inline constexpr std::size_t items_at_once = 8;

/// Whether fixed point stays within fp32's normal numbers for any vector of usual size: else fp32
/// kernels are faster than to look at each.
[[nodiscard]] bool fits_fixed_point(const Sliding& layout) noexcept;

/// The same for the matrix and one vector, which has to be finite: its scale, the units of products
/// and what is added up of them.
[[nodiscard]] bool fits_fixed_point(const Sliding& layout, const Range& range) noexcept;

/// One vector in fp32 by gathers, whatever it holds.
void multiply_gathering(const PackedMatrix::Layout& layout, const float* x, const Outputs& out,
                        int threads);

/// Up to `items_at_once` vectors in fixed point, whose ranges fit it.
void multiply_fixed(const PackedMatrix::Layout& layout, const Sliding& sliding,
                    Arithmetic arithmetic, std::span<const Range> ranges, const float* x,
                    const Outputs& out, int threads);

/// What follows the fixed-point sums of a vector: in the finest arithmetic the rows that need it
/// are computed again and the bias is added; then the outputs are finished.
void finish_fixed(const PackedMatrix::Layout& layout, const Sliding& sliding, Arithmetic arithmetic,
                  const Range& range, const float* x, const Outputs& out);

/// A batch in fp32 from the layout rows16.
void multiply_rows16(const PackedMatrix::Layout& layout, const float* x, std::size_t batch,
                     const Outputs& out, int threads);

}  // namespace tersor::spmm
