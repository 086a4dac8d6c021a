// Products with dense slices of integers in fp32, written once for all levels: a small matrix
// product of rows and vectors. Integers become floats as they are loaded, once for up to four
// vectors, and the activations stay as they are. Bound by the multiply-adds: two rows and four
// vectors take 8, for 2 conversions and 4 loads; with 32 registers four rows take 16.
#pragma once

#include <algorithm>
#include <array>

#include "spmm/dense_codes/integer_rows.hpp"
#include "spmm/dense_codes/layout.hpp"
#include "spmm/sell/layout.hpp"

namespace tersor::spmm::sell {
namespace {  // NOLINT(google-build-namespaces): compiled anew for each file's target

/// Lines of a row that are added up in fp32, in as many sums as a register holds: 1,024 columns
/// keep the bound of `highest` (docs/kernels).
constexpr std::size_t lines_per_sum = 16;

/// Rows that stay in the second cache while vector after vector passes.
constexpr std::size_t rows_together = 4 * slice_rows;

/// The sums of the elements of each register, added to totals[v][r].
template <std::size_t rows, std::size_t vectors>
void add_sums(const simd::F32 (&sums)[rows][vectors],
              std::array<std::array<double, rows>, vectors>& totals) noexcept {
    if constexpr (rows * vectors == simd::width) {
        simd::F32 lanes[simd::width];
        for (std::size_t i = 0; i < simd::width; ++i) lanes[i] = sums[i / vectors][i % vectors];
        simd::transpose(lanes);
        for (std::size_t half = simd::width / 2; half > 0; half /= 2) {
            for (std::size_t i = 0; i < half; ++i) lanes[i] = lanes[i] + lanes[i + half];
        }
        float each[simd::width];
        simd::store(each, lanes[0]);
        for (std::size_t i = 0; i < simd::width; ++i) {
            totals[i % vectors][i / vectors] += double{each[i]};
        }
    } else {
        for (std::size_t r = 0; r < rows; ++r) {
            for (std::size_t v = 0; v < vectors; ++v) {
                totals[v][r] += double{simd::sum(sums[r][v])};
            }
        }
    }
}

/// totals[v][r] = the product of row r with vector v, in units of w.
template <std::size_t rows, std::size_t vectors>
void multiply_block(const std::uint8_t* line, std::size_t stride, const float* x,
                    std::array<std::array<double, rows>, vectors>& totals) noexcept {
    totals = {};
    std::size_t lines = stride / dense_codes::line_bytes;
    while (lines > 0) {
        const std::size_t taken = std::min(lines, lines_per_sum);
        lines -= taken;
        simd::F32 sums[rows][vectors];
        for (auto& row : sums) {
            for (simd::F32& sum : row) sum = simd::zero();
        }
        constexpr std::size_t next = dense_codes::group_rows * dense_codes::line_bytes;
        for (const std::uint8_t* end = line + taken * next; line != end; line += next) {
#if defined(__GNUC__)
#pragma GCC unroll 1
#endif
            for (std::size_t at = 0; at < dense_codes::line_bytes;
                 at += simd::width, x += simd::width) {
                simd::F32 from[vectors];
                for (std::size_t v = 0; v < vectors; ++v) from[v] = simd::load(x + v * stride);
                for (std::size_t r = 0; r < rows; ++r) {
                    const simd::F32 weights =
                        simd::load_int8(line + r * dense_codes::line_bytes + at);
                    for (std::size_t v = 0; v < vectors; ++v) {
                        sums[r][v] = simd::fma(weights, from[v], sums[r][v]);
                    }
                }
            }
        }
        add_sums(sums, totals);
    }
}

/// Rows [begin, end), whole groups but for the last.
template <std::size_t rows, std::size_t vectors>
void multiply_rows_of(const Sell& layout, const float* x, const float* bias, float* y,
                      std::size_t begin, std::size_t end) noexcept {
    const std::size_t row_count = layout.row_order.size();
    std::array<std::array<double, rows>, vectors> totals;
    for (std::size_t first = begin; first < end; first += rows) {
        multiply_block<rows, vectors>(
            dense_codes::first_line(layout.entries.data(), layout.row_bytes, first),
            layout.row_bytes, x, totals);
        for (std::size_t v = 0; v < vectors; ++v) {
            const FixedActivations as_it_is{nullptr, 0, 0.0, 1.0, x + v * layout.row_bytes};
            store_integer_rows(layout, as_it_is, totals[v].data(), first,
                               std::min(first + rows, end), bias, y + v * row_count);
        }
    }
}

inline void multiply_as_floats(const Sell& layout, const float* x, std::size_t items,
                               const float* bias, float* y, std::size_t slice_begin,
                               std::size_t slice_end) noexcept {
    constexpr std::size_t rows = simd::registers > 16 ? 4 : 2;  // of four vectors
    const std::size_t row_count = layout.row_order.size();
    const std::size_t last = std::min(slice_end * slice_rows, row_count);
    for (std::size_t begin = slice_begin * slice_rows; begin < last; begin += rows_together) {
        const std::size_t end = std::min(begin + rows_together, last);
        for (std::size_t item = 0; item < items;) {
            const float* from = x + item * layout.row_bytes;
            float* to = y + item * row_count;
            if (items - item >= 4) {
                multiply_rows_of<rows, 4>(layout, from, bias, to, begin, end);
                item += 4;
            } else if (items - item >= 2) {
                multiply_rows_of<4, 2>(layout, from, bias, to, begin, end);
                item += 2;
            } else {
                multiply_rows_of<4, 1>(layout, from, bias, to, begin, end);
                item += 1;
            }
        }
    }
}

}  // namespace
}  // namespace tersor::spmm::sell
