// Portable kernels; they sum in double, so that their error is little more than one rounding.
#include <algorithm>
#include <cmath>

#include "spmm/kernels.hpp"

namespace tersor::spmm {
namespace {

void multiply_vector(const BlockView& block, const float* x, float* y, std::size_t row_begin,
                     std::size_t row_end) noexcept {
    for (std::size_t r = row_begin; r < row_end; ++r) {
        double sum = y[r];
        for (std::uint64_t i = block.row_starts[r]; i < block.row_starts[r + 1]; ++i) {
            sum += double{block.weight(i)} * double{x[block.columns[i]]};
        }
        y[r] = static_cast<float>(sum);
    }
}

void multiply_panel(const BlockView& block, const float* panel, const std::size_t* offsets,
                    float* y, std::size_t stride, std::size_t row_begin,
                    std::size_t row_end) noexcept {
    for (std::size_t r = row_begin; r < row_end; ++r) {
        double sums[panel_lanes];
        float* out = y + r * stride;
        for (std::size_t lane = 0; lane < panel_lanes; ++lane) sums[lane] = out[lane];
        for (std::uint64_t i = block.row_starts[r]; i < block.row_starts[r + 1]; ++i) {
            const double w = block.weight(i);
            const float* x = panel + offsets[block.columns[i]];
            for (std::size_t lane = 0; lane < panel_lanes; ++lane)
                sums[lane] += w * double{x[lane]};
        }
        for (std::size_t lane = 0; lane < panel_lanes; ++lane) {
            out[lane] = static_cast<float>(sums[lane]);
        }
    }
}

void sum_by_code(const BlockView& block, std::uint64_t begin, std::uint64_t end, const float* panel,
                 const float* gradient, float* sums) noexcept {
    for (std::uint64_t i = begin; i < end; ++i) {
        const float* x = panel + block.columns[i] * panel_lanes;
        float* sum = sums + block.codes[i] * panel_lanes;
        for (std::size_t lane = 0; lane < panel_lanes; ++lane)
            sum[lane] += x[lane] * gradient[lane];
    }
}

Range activation_range(const float* x, std::size_t size) noexcept {
    Range range{0.0F, 0.0F, true};
    for (std::size_t k = 0; k < size; ++k) {
        range.low = std::min(range.low, x[k]);
        range.high = std::max(range.high, x[k]);
        range.finite &= std::isfinite(x[k]);
    }
    return range;
}

std::size_t decode_entries(const std::uint8_t* gaps, const std::uint8_t* codes, std::size_t size,
                           std::uint32_t column, std::uint32_t* columns,
                           std::uint8_t* out_codes) noexcept {
    std::size_t at = 0;
    for (std::size_t i = 0; i < size; ++i) {
        column += gaps[i];
        columns[at] = column++;
        out_codes[at] = codes[i];
        at += codes[i] != 0 ? 1U : 0U;
    }
    return at;
}

std::uint32_t take_step(const std::uint32_t* columns, const std::uint8_t* codes,
                        std::uint32_t* next, std::uint32_t first, std::uint32_t width,
                        std::uint8_t* step_columns, std::uint8_t* step_codes) noexcept {
    std::uint32_t left = UINT32_MAX;
    for (std::size_t r = 0; r < slice_rows; ++r) {
        for (std::size_t slot = r * row_slots; slot < (r + 1) * row_slots; ++slot) {
            const std::uint32_t place = columns[next[r]] - first;
            const bool inside = place < width;
            step_columns[slot] = inside ? static_cast<std::uint8_t>(place) : std::uint8_t{0};
            step_codes[slot] = inside ? codes[next[r]] : std::uint8_t{0};
            next[r] += inside ? 1U : 0U;
        }
        left = std::min(left, columns[next[r]]);
    }
    return left;
}

}  // namespace

void install_scalar(Kernels& kernels) noexcept {
    kernels.multiply_vector = multiply_vector;
    kernels.multiply_panel = multiply_panel;
    kernels.sum_by_code = sum_by_code;
    kernels.activation_range = activation_range;
    kernels.decode_entries = decode_entries;
    kernels.take_step = take_step;
}

}  // namespace tersor::spmm
