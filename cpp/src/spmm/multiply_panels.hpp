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

/// The same in digits of 8 bits, `digit_lanes` vectors at a time; vectors that do not fit fixed
/// point are gathered. The matrix has a sliding layout.
void multiply_digit_panels(const PackedMatrix::Layout& layout, const Panels& panels, const float* x,
                           std::size_t batch, const Outputs& out, int threads);

}  // namespace tersor::spmm
