// In which order rows come into slices.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "spmm/kernels.hpp"

namespace tersor::spmm {

/// Rows that advance alike come together, so that few slots of their slice stay empty: the rows of
/// a group, from one of `bounds` to the next, are sorted by the mark at which they differ most and
/// cut in two, and each half again, down to slices.
[[nodiscard]] std::vector<std::uint32_t> order_rows(std::span<const RowFacts> facts,
                                                    std::span<const std::size_t> bounds,
                                                    const Kernels& kernels, int threads);

}  // namespace tersor::spmm
