// The class `highest` in fixed point. Its bound, c(n) * eps * sum |w||x|, is relative to each row's
// own terms, while the error of an activation is a part of the largest one: so whether a row meets
// its bound is seen from its result. As sum |w||x| is at least |y|, a row whose |y| is large enough
// is within its bound; the few others are computed again.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "spmm/sell/layout.hpp"

namespace tersor::spmm {

/// c(n) of docs/kernels for a row of n non-zeros.
[[nodiscard]] constexpr double highest_limit(double n) noexcept {
    return 4.0 + (n < 256.0 ? n : 256.0) / 2.0 + n / 32.0;
}

/// What the SELL layout needs beside itself for `highest`; by row as the slices order them.
struct HighestRows {
    std::vector<float> sum_rests;  // the sums of the weights are `Sell::sums` and these
    std::vector<float> floors;     // |y| / max|x| from which a row is within its bound

    [[nodiscard]] std::size_t nbytes() const noexcept {
        return sizeof(float) * (sum_rests.size() + floors.size());
    }
};

[[nodiscard]] HighestRows make_highest_rows(const Sell& layout, std::span<const float> codebook);

/// Computes the rows of y [rows] again, in double, whose result does not show that it is within its
/// bound, and returns true. Returns false, with y as it was, where another kernel should compute
/// them all, as they are many.
[[nodiscard]] bool mend_rows(const Sell& layout, const HighestRows& highest,
                             std::span<const float> codebook, const float* x, double largest,
                             float* y);

}  // namespace tersor::spmm
