// Products with batches on matrix units.
#pragma once

#include "spmm/epilogue/outputs.hpp"
#include "spmm/packed_matrix.hpp"

namespace tersor::spmm {

/// Any number of vectors, row-major x [batch, cols], in fixed point; those that do not fit it are
/// gathered. The matrix has tiles and a SELL layout, whose rows meet the class in `arithmetic`.
void multiply_tiles(const PackedMatrix::Layout& layout, const Tiles& tiles, Arithmetic arithmetic,
                    const float* x, std::size_t batch, const Outputs& out, int threads);

}  // namespace tersor::spmm
