// Products with batches.
#pragma once

#include <span>

#include "spmm/kernels.hpp"
#include "spmm/layout.hpp"
#include "spmm/outputs.hpp"

namespace tersor::spmm {

/// A batch in fp32: row-major x [batch, cols]. `panels` are those of the matrix.
void multiply_panels(const PackedMatrix::Layout& layout, const Panels& panels, const float* x,
                     std::size_t batch, const Outputs& out, int threads);

/// The same in digits of 8 bits for up to `digit_lanes` vectors, whose ranges are given; `row_sums`
/// are the sums of each row's weights as the digits have them. Vectors that do not fit fixed point
/// are left to the caller.
void multiply_digit_panels(const PackedMatrix::Layout& layout, const Panels& panels, const float* x,
                           std::span<const Range> ranges, std::span<const float> row_sums,
                           const Outputs& out, int threads);

}  // namespace tersor::spmm
