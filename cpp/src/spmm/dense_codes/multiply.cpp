#include "spmm/dense_codes/multiply.hpp"

#include <algorithm>

#include "spmm/sell/kernels.hpp"
#include "spmm/sell/multiply.hpp"
#include "support/scratch.hpp"
#include "tersor/parallel.hpp"

namespace tersor::spmm {

bool fits_as_floats(const Sell& sell, const Range& range) noexcept {
    constexpr double largest_sum = 0x1p126;  // of integers times activations
    const double width = double{range.high} - double{range.low};
    return fits_fixed_point(sell, range) &&
           width * 127.0 * static_cast<double>(sell.row_bytes) <= largest_sum;
}

void multiply_as_floats(const PackedMatrix::Layout& layout, const Sell& sell, const float* x,
                        std::size_t batch, const Outputs& out, int threads) {
    const std::size_t cols = layout.cols;
    const std::size_t stride = sell.row_bytes;
    const support::Scratch<float> padded(cols == stride ? 0 : batch * stride);
    if (cols != stride) {
        parallel_for(batch, 1, threads, [&](std::size_t begin, std::size_t end) {
            for (std::size_t n = begin; n < end; ++n) {
                float* const to = padded.data() + n * stride;
                std::copy_n(x + n * cols, cols, to);
                std::fill(to + cols, to + stride, 0.0F);
            }
        });
        x = padded.data();
    }
    const float* bias = out.bias.empty() ? nullptr : out.bias.data();
    const sell::MultiplyAsFloats multiply = sell::kernels(layout.isa).multiply_as_floats;
    parallel_for(sell.slices(), 1, threads, [&](std::size_t begin, std::size_t end) {
        multiply(sell, x, batch, bias, out.products, begin, end);
        if (!out.needs_epilogue()) return;
        const std::size_t last = std::min<std::size_t>(end * slice_rows, layout.rows);
        for (std::size_t n = 0; n < batch; ++n) out.apply_epilogue(n, begin * slice_rows, last);
    });
}

}  // namespace tersor::spmm
