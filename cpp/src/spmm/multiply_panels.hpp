// Products with batches.
#pragma once

#include <span>

#include "spmm/layout.hpp"

namespace tersor::spmm {

/// y = x W^T + bias in fp32 for row-major x [batch, cols] and y [batch, rows]. `panels` are
/// those of the matrix.
void multiply_panels(const PackedMatrix::Layout& layout, const Panels& panels, const float* x,
                     std::size_t batch, std::span<const float> bias, float* y, int threads);

}  // namespace tersor::spmm
