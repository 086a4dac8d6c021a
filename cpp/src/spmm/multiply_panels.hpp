// Products with batches.
#pragma once

#include <span>

#include "spmm/kernels.hpp"
#include "spmm/layout.hpp"

namespace tersor::spmm {

/// y = x W^T + bias in fp32 for row-major x [batch, cols] and y [batch, rows]. `panels` are
/// those of the matrix.
void multiply_panels(const PackedMatrix::Layout& layout, const Panels& panels, const float* x,
                     std::size_t batch, std::span<const float> bias, float* y, int threads);

/// The same in digits of 8 bits for up to `digit_lanes` vectors, whose ranges are given; `row_sums`
/// are the sums of each row's weights as the digits have them.
void multiply_digit_panels(const PackedMatrix::Layout& layout, const Panels& panels, const float* x,
                           std::span<const Range> ranges, std::span<const float> row_sums,
                           std::span<const float> bias, float* y, int threads);

}  // namespace tersor::spmm
