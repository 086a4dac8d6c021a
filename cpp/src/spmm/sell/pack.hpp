// Filling the SELL layout.
#pragma once

#include <cstdint>
#include <span>

#include "spmm/rows/row_source.hpp"
#include "spmm/sell/layout.hpp"

namespace tersor::spmm {

/// `codebook` has 2 to 256 values, the matrix at least one row and at most max_sell_columns
/// columns, and the level `isa` the kernels of the layout, which begins empty. False where the
/// matrix is malformed or has another number of non-zeros than it says.
[[nodiscard]] bool make_sell(RowSource& source, std::uint32_t rows, std::span<const float> codebook,
                             Isa isa, int threads, Sell& layout);

}  // namespace tersor::spmm
