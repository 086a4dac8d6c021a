// What is done once for each product of a row of integers.
#pragma once

#include <cstddef>

#include "spmm/sell/layout.hpp"

namespace tersor::spmm {

/// y[r] = totals[r - begin], in units of x and of the integers, with the origin of x, outliers and
/// bias, for the rows [begin, end) of one vector.
void store_integer_rows(const Sell& layout, const FixedActivations& x, const double* totals,
                        std::size_t begin, std::size_t end, const float* bias, float* y) noexcept;

}  // namespace tersor::spmm
