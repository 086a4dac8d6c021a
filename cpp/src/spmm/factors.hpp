// Factors of columns, which x is multiplied with as it is read.
#pragma once

#include <span>

#include "spmm/packed_matrix.hpp"
#include "tersor/epilogue.hpp"

namespace tersor::spmm {

/// scaled = the vectors of x times the factors of the columns, which the matrix has.
void scale_columns(const PackedMatrix::Layout& layout, FloatView x, std::span<float> scaled,
                   int threads);

}  // namespace tersor::spmm
