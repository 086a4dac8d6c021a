#include "spmm/sell/multiply.hpp"

#include <algorithm>
#include <array>
#include <vector>

#include "spmm/activations/kernels.hpp"
#include "spmm/csr16/multiply.hpp"
#include "spmm/sell/kernels.hpp"
#include "support/scratch.hpp"
#include "tersor/parallel.hpp"

namespace tersor::spmm {
namespace {

/// Ranges of x outside of which its scale would leave fp32's normal numbers.
constexpr float smallest_range = 0x1p-90F;
constexpr float largest_range = 0x1p100F;

/// Sums of magnitudes of a row's weights up to which, and largest weights down to whose reciprocal,
/// fixed point is tried.
constexpr double usual_row = 0x1p100;

/// Of the range of x and a row's sum of magnitudes: two terms of that size are added in fp32.
constexpr double largest_sum = 0x1p126;

/// Of the range of x and the largest weight: the unit of a product of two bytes is normal.
constexpr double smallest_product = 0x1p-110;

}  // namespace

bool fits_fixed_point(const Sell& layout) noexcept {
    return layout.heaviest_row <= usual_row &&
           (layout.heaviest_row == 0.0 || layout.largest_weight() >= 1.0 / usual_row);
}

bool fits_fixed_point(const Sell& layout, const Range& range) noexcept {
    const float width = range.high - range.low;
    if (!range.finite) return false;
    if (width == 0.0F) return true;
    const double largest_product = double{width} * layout.largest_weight();
    return width >= smallest_range && width <= largest_range && fits_fixed_point(layout) &&
           double{width} * layout.heaviest_row <= largest_sum &&
           (largest_product == 0.0 || largest_product >= smallest_product);
}

void multiply_fixed(const PackedMatrix::Layout& layout, const Sell& sell, Arithmetic arithmetic,
                    std::span<const Range> ranges, const float* x, const Outputs& out,
                    int threads) {
    const std::size_t stride = plane_bytes(layout.cols);
    const int planes = arithmetic.x_limbs * sell.shape.planes_per_limb;
    const std::size_t item_bytes = static_cast<std::size_t>(planes) * stride;
    const bool finest = has_byte_limbs && arithmetic == finest_arithmetic;
    const float* sum_rests = finest ? layout.highest_rows().sum_rests.data() : nullptr;
    // What lies past the last column is multiplied with weights that are 0.
    const support::Scratch<std::uint8_t> limbs(ranges.size() * item_bytes);
    std::array<FixedActivations, items_at_once> fixed;
    parallel_for(ranges.size(), 1, threads, [&](std::size_t begin, std::size_t end) {
        for (std::size_t n = begin; n < end; ++n) {
            const Range& range = ranges[n];
            const FixedScale scale = scale_of(range, arithmetic.x_limbs, sell.shape.limb_bits);
            std::uint8_t* const to = limbs.data() + n * item_bytes;
            activations::kernels(layout.isa)
                .split(x + n * layout.cols, layout.cols, range.low, scale.factor,
                       arithmetic.x_limbs, to, stride);
            fixed[n] = {to, stride, range.low, scale.unit, x + n * layout.cols, sum_rests};
        }
    });
    const Limbs& weights = sell.limbs[static_cast<std::size_t>(arithmetic.w_limbs - 1)];

    // Pieces of equal work: slices differ in length, and are sorted by it.
    const std::vector<std::uint32_t>& starts = sell.slice_starts;
    const std::size_t pieces =
        std::min(sell.slices(), static_cast<std::size_t>(std::max(threads, 1)));
    const auto slice_of_piece = [&](std::size_t piece) {
        if (piece == pieces) return sell.slices();
        const std::uint64_t work = std::uint64_t{starts.back()} * piece / pieces;
        return static_cast<std::size_t>(std::lower_bound(starts.begin(), starts.end(), work) -
                                        starts.begin());
    };
    const float* bias = finest || out.bias.empty() ? nullptr : out.bias.data();
    const sell::Kernels& kernels = sell::kernels(layout.isa);
    const sell::Multiply multiply = sell.integers.has_value() ? kernels.multiply_integers
                                    : sell.shape.dense        ? kernels.multiply_dense
                                                              : kernels.multiply;
    parallel_for(pieces, 1, threads, [&](std::size_t begin, std::size_t end) {
        multiply(sell, weights, arithmetic, fixed.data(), ranges.size(), bias, out.products,
                 slice_of_piece(begin), slice_of_piece(end));
    });
    if (!finest && !out.needs_epilogue()) return;
    // The slices leave the rows in another order, so these are finished together.
    parallel_for(ranges.size(), 1, threads, [&](std::size_t begin, std::size_t end) {
        for (std::size_t n = begin; n < end; ++n) {
            finish_fixed(layout, sell, arithmetic, ranges[n], x + n * layout.cols, out.past(n));
        }
    });
}

void finish_fixed(const PackedMatrix::Layout& layout, const Sell& sell, Arithmetic arithmetic,
                  const Range& range, const float* x, const Outputs& out) {
    if (has_byte_limbs && arithmetic == finest_arithmetic) {
        const double largest = std::max(-double{range.low}, double{range.high});
        if (!mend_rows(sell, layout.highest_rows(), layout.codebook, x, largest, out.products)) {
            gather_rows(layout, x, out, 1);
        } else {
            for (std::size_t r = 0; r < out.bias.size(); ++r) out.products[r] += out.bias[r];
        }
    }
    out.apply_epilogue(0, 0, layout.rows);
}

}  // namespace tersor::spmm
