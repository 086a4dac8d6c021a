// Products with batches on matrix units.
#pragma once

#include "spmm/layout.hpp"
#include "spmm/outputs.hpp"

namespace tersor::spmm {

/// Any number of vectors, row-major x [batch, cols], in fixed point; those that do not fit it are
/// gathered. The matrix has tiles and a sliding layout, whose rows meet the class in `arithmetic`.
void multiply_tiles(const PackedMatrix::Layout& layout, const Tiles& tiles, Arithmetic arithmetic,
                    const float* x, std::size_t batch, const Outputs& out, int threads);

}  // namespace tersor::spmm
