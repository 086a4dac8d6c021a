// Filling dense slices.
#pragma once

#include <cstdint>
#include <span>

#include "spmm/rows/row_source.hpp"
#include "spmm/sell/layout.hpp"

namespace tersor::spmm {

/// As make_sell, with a dense shape. Where the layout has `integers`, it holds those.
[[nodiscard]] bool make_dense_codes(RowSource& source, std::uint32_t rows,
                                    std::span<const float> codebook, const SellShape& shape,
                                    Isa isa, int threads, Sell& layout);

}  // namespace tersor::spmm
