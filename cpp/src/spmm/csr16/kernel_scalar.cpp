// Portable kernels; they sum in double, so that their error is little more than one rounding.
#include <algorithm>

#include "spmm/csr16/kernels.hpp"

namespace tersor::spmm::csr16 {
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

}  // namespace

void install(dispatch::Level<Isa::scalar>, Kernels& kernels) noexcept {
    kernels = {multiply_vector, multiply_panel, sum_by_code};
}

}  // namespace tersor::spmm::csr16
