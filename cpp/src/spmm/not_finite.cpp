#include "spmm/not_finite.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

#include "spmm/activations/kernels.hpp"

namespace tersor::spmm {

NotFinite::NotFinite(const PackedMatrix::Layout& layout, const float* x, std::size_t vectors)
    : x_(x), cols_(layout.cols), counts_(vectors, 0), layout_(&layout) {
    const activations::RangeOf range_of = activations::kernels(layout.isa).range;
    for (std::size_t n = 0; n < vectors; ++n) {
        const float* vector = x + n * cols_;
        if (range_of(vector, cols_).finite) continue;
        counts_[n] = static_cast<std::size_t>(
            std::count_if(vector, vector + cols_, [](float v) { return !std::isfinite(v); }));
        csr16_ = &layout.csr16();
    }
}

void NotFinite::spread(std::size_t vector, std::size_t row_begin, std::size_t row_end,
                       float* products) const noexcept {
    if (counts_[vector] == 0) return;
    const float* x = x_ + vector * cols_;
    for (std::size_t r = row_begin; r < row_end; ++r) {
        std::size_t read = 0;
        for (std::size_t b = 0; b < csr16_->blocks.size(); ++b) {
            const BlockView block = layout_->view(*csr16_, b);
            for (std::uint64_t i = block.row_starts[r]; i < block.row_starts[r + 1]; ++i) {
                read += std::isfinite(x[block.first_column + block.columns[i]]) ? 0U : 1U;
            }
        }
        if (read != counts_[vector]) {
            products[r - row_begin] = std::numeric_limits<float>::quiet_NaN();
        }
    }
}

}  // namespace tersor::spmm
