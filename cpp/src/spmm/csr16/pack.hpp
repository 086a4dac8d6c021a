// Filling the layout csr16.
#pragma once

#include <cstdint>

#include "spmm/csr16/layout.hpp"
#include "spmm/rows/csr_rows.hpp"

namespace tersor::spmm {

/// Rows that are all loaded and valid, with their codes.
[[nodiscard]] Csr16 pack_csr16(const CsrRows& source, std::uint32_t rows);

/// The same with a value for each non-zero instead, in order.
[[nodiscard]] Csr16 pack_csr16(const CsrRows& source, std::uint32_t rows, const float* values);

}  // namespace tersor::spmm
