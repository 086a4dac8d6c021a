#pragma once

#include <cstddef>
#include <cstdint>

#include "tersor/spmm.hpp"

namespace tersor::spmm {

/// The most memory that packing such a matrix for the level in use may take: its layout, and what
/// making that needs besides. `codebook_size` counts the zero; 0: plain weights. What products make
/// of the layout later, and what the matrix itself takes, come on top.
[[nodiscard]] std::uint64_t packing_bytes(std::uint32_t rows, std::uint32_t cols,
                                          std::uint64_t nonzeros, std::size_t codebook_size,
                                          LayoutHint layout_hint);

}  // namespace tersor::spmm
