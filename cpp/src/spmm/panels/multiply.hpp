// Products with batches.
#pragma once

#include <span>

#include "spmm/epilogue/outputs.hpp"
#include "spmm/packed_matrix.hpp"

namespace tersor::spmm {

/// A batch in fp32: row-major x [batch, cols]. `panels` are those of the matrix.
void multiply_panels(const PackedMatrix::Layout& layout, const Panels& panels, const float* x,
                     std::size_t batch, const Outputs& out, int threads);

/// The same in limbs of 8 bits, `limb_lanes` vectors at a time; vectors that do not fit fixed
/// point are gathered. The matrix has a SELL layout.
void multiply_limb_panels(const PackedMatrix::Layout& layout, const Panels& panels, const float* x,
                          std::size_t batch, const Outputs& out, int threads);

}  // namespace tersor::spmm
