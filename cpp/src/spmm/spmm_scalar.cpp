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

}  // namespace

void install_scalar(Kernels& kernels) noexcept {
    kernels.multiply_vector = multiply_vector;
    kernels.multiply_panel = multiply_panel;
    kernels.activation_range = activation_range;
    kernels.decode_entries = decode_entries;
}

}  // namespace tersor::spmm
