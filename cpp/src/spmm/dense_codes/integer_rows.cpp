#include "spmm/dense_codes/integer_rows.hpp"

namespace tersor::spmm {

void store_integer_rows(const Sell& layout, const FixedActivations& x, const double* totals,
                        std::size_t begin, std::size_t end, const float* bias, float* y) noexcept {
    const double unit = x.unit * layout.limbs[0].unit;
    for (std::size_t r = begin; r < end; ++r) {
        double total = totals[r - begin] * unit + layout.outliers.product(r, x.values);
        if (x.low != 0.0) {
            double sum = double{layout.sums[r]};
            if (x.sum_rests != nullptr) sum += double{x.sum_rests[r]};
            total += x.low * sum;
        }
        const auto out = static_cast<float>(total);
        y[r] = bias == nullptr ? out : out + bias[r];
    }
}

}  // namespace tersor::spmm
