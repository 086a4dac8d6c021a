// Filling dense slices.
#pragma once

#include <cstdint>
#include <span>

#include "spmm/csr16/rows.hpp"
#include "spmm/rows/csr_rows.hpp"
#include "spmm/sell/layout.hpp"

namespace tersor::spmm {

/// As make_sell, with a dense shape.
[[nodiscard]] bool make_dense_codes(CsrRows& source, std::uint32_t rows,
                                    std::span<const float> codebook, const SellShape& shape,
                                    Isa isa, int threads, Sell& layout);
[[nodiscard]] bool make_dense_codes(Csr16Rows& source, std::uint32_t rows,
                                    std::span<const float> codebook, const SellShape& shape,
                                    Isa isa, int threads, Sell& layout);

}  // namespace tersor::spmm
