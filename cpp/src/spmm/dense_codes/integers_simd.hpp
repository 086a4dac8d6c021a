// Products with dense slices of integers, written once for all levels. A weight is a byte, which is
// read as it lies: one load and one multiplication for each limb of x. Four neighbouring rows, or
// two where their sums would not fit the registers, share what is loaded of x.
#pragma once

#include <algorithm>
#include <array>

#include "spmm/dense_codes/integer_rows.hpp"
#include "spmm/dense_codes/layout.hpp"
#include "spmm/sell/layout.hpp"

namespace tersor::spmm::sell {
namespace {  // NOLINT(google-build-namespaces): compiled anew for each file's target

using dense_codes::group_rows;
using dense_codes::line_bytes;

/// Lines of a row after which 32-bit sums are folded into double ones: a line adds at most 4 * 4
/// products to a sum.
constexpr std::size_t lines_per_fold = 1024;
static_assert(lines_per_fold * 4 * 4 * 255 * 127 < (std::size_t{1} << 31));

/// totals[r] = the products of row r with one vector, in units of x and w.
template <int x_limbs, std::size_t rows>
void multiply_rows(const std::uint8_t* line, std::size_t lines, const FixedActivations& x,
                   int limb_bits, double* totals) noexcept {
    const std::uint8_t* limbs = x.limbs;
    std::fill_n(totals, rows, 0.0);
    while (lines > 0) {
        const std::size_t taken = std::min(lines, lines_per_fold);
        lines -= taken;
        simd::I32 sums[rows][x_limbs];
        for (auto& row : sums) {
            for (simd::I32& sum : row) sum = simd::splat_int(0);
        }
        for (const std::uint8_t* end = line + taken * group_rows * line_bytes; line != end;
             line += group_rows * line_bytes, limbs += line_bytes) {
#if defined(__GNUC__)
#pragma GCC unroll 1
#endif
            for (std::size_t at = 0; at < line_bytes; at += sizeof(simd::I32)) {
                simd::I32 x_limb[x_limbs];
                for (int p = 0; p < x_limbs; ++p) {
                    x_limb[p] =
                        simd::load_bytes(limbs + static_cast<std::size_t>(p) * x.stride + at);
                }
#if defined(__GNUC__)
#pragma GCC unroll 4
#endif
                for (std::size_t r = 0; r < rows; ++r) {
                    const simd::I32 weights = simd::load_bytes(line + r * line_bytes + at);
                    for (int p = 0; p < x_limbs; ++p) {
                        sums[r][p] = simd::add_dots(sums[r][p], x_limb[p], weights);
                    }
                }
            }
        }
        for (std::size_t r = 0; r < rows; ++r) {
            for (int p = 0; p < x_limbs; ++p) {
                totals[r] += static_cast<double>(std::uint64_t{1} << (limb_bits * p)) *
                             simd::sum_ints(sums[r][p]);
            }
        }
    }
}

template <int x_limbs>
void multiply_slices(const Sell& layout, const FixedActivations* x, std::size_t items,
                     const float* bias, float* y, std::size_t slice_begin,
                     std::size_t slice_end) noexcept {
    constexpr std::size_t rows = group_rows * x_limbs + 4 > simd::registers ? 2 : group_rows;
    const std::size_t row_count = layout.row_order.size();
    const std::size_t lines = layout.row_bytes / line_bytes;
    const std::size_t end = std::min(slice_end * slice_rows, row_count);
    for (std::size_t first = slice_begin * slice_rows; first < end; first += rows) {
        const std::uint8_t* line =
            dense_codes::first_line(layout.entries.data(), layout.row_bytes, first);
        for (std::size_t item = 0; item < items; ++item) {
            std::array<double, rows> totals;
            multiply_rows<x_limbs, rows>(line, lines, x[item], layout.shape.limb_bits,
                                         totals.data());
            store_integer_rows(layout, x[item], totals.data(), first,
                               std::min(first + rows, row_count), bias, y + item * row_count);
        }
    }
}

/// The limbs of x are those of the arithmetic; a weight has one.
inline void multiply_integers(const Sell& layout, const Limbs& /*weights*/, Arithmetic arithmetic,
                              const FixedActivations* x, std::size_t items, const float* bias,
                              float* y, std::size_t slice_begin, std::size_t slice_end) noexcept {
    // Four limbs are those of `highest`, on levels whose limbs are bytes.
    constexpr int most_limbs = simd::registers > 16 ? 4 : 3;
    const auto run = arithmetic.x_limbs == 1   ? multiply_slices<1>
                     : arithmetic.x_limbs == 2 ? multiply_slices<2>
                     : arithmetic.x_limbs == 3 ? multiply_slices<3>
                                               : multiply_slices<most_limbs>;
    run(layout, x, items, bias, y, slice_begin, slice_end);
}

}  // namespace
}  // namespace tersor::spmm::sell
