// Filling the sliding layout.
#pragma once

#include <span>

#include "spmm/row_source.hpp"
#include "spmm/sliding.hpp"

namespace tersor::spmm {

/// `codebook` has 2 to 256 values, the matrix at least one row and at most max_sliding_columns
/// columns, and the level `isa` the kernels of the layout.
[[nodiscard]] Sliding make_sliding(const CsrRows& source, std::uint32_t rows,
                                   std::span<const float> codebook, Isa isa, int threads);
[[nodiscard]] Sliding make_sliding(const Rows16Rows& source, std::uint32_t rows,
                                   std::span<const float> codebook, Isa isa, int threads);

}  // namespace tersor::spmm
