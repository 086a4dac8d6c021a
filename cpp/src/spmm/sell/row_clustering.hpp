// In which order rows come into slices.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "spmm/sell/kernels.hpp"

namespace tersor::spmm {

/// Rows that advance alike come together, so that few slots of their slice stay empty: they are
/// sorted by the mark at which they differ most and cut in two, and each half again, down to
/// slices.
[[nodiscard]] std::vector<std::uint32_t> cluster_rows(std::span<const RowStatistics> statistics,
                                                      const sell::Kernels& kernels);

}  // namespace tersor::spmm
