// Filling the sliding layout.
#pragma once

#include <cstdint>
#include <span>

#include "spmm/row_source.hpp"
#include "spmm/sliding.hpp"

namespace tersor::spmm {

/// `codebook` has 2 to 256 values, the matrix at least one row and at most max_sliding_columns
/// columns, and the level `isa` the kernels of the layout, which begins empty. False where the
/// matrix is malformed or has another number of non-zeros than it says.
[[nodiscard]] bool make_sliding(CsrRows& source, std::uint32_t rows,
                                std::span<const float> codebook, Isa isa, int threads,
                                Sliding& layout);

/// The same for what was packed before, and so is well formed.
[[nodiscard]] Sliding make_sliding(Rows16Rows& source, std::uint32_t rows,
                                   std::span<const float> codebook, Isa isa, int threads);

}  // namespace tersor::spmm
