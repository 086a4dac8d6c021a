// What the fixed-point arithmetics have to know of each row.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "spmm/sell/kernels.hpp"
#include "spmm/sell/layout.hpp"

namespace tersor::spmm {

/// What is added up over the weights of a row: the weights, their magnitudes, and for each
/// arithmetic how far its products may be off.
class RowTotals {
public:
    RowTotals(std::span<const float> codebook, const Sell& layout, sell::WeighCounts weigh)
        : weigh_(weigh), terms_(codebook.size()) {
        for (std::size_t c = 1; c < codebook.size(); ++c) {
            terms_[c][0] = double{codebook[c]};
            terms_[c][1] = std::abs(double{codebook[c]});
        }
        for (std::size_t a = 0; a < arithmetics.size(); ++a) {
            const auto w_limbs = static_cast<std::size_t>(arithmetics[a].w_limbs);
            const auto errors = product_errors(codebook, layout.limbs[w_limbs - 1], arithmetics[a]);
            for (std::size_t c = 1; c < codebook.size(); ++c) terms_[c][2 + a] = errors[c];
        }
    }

    /// Of any row so far: the largest error, as a part of the row's sum of magnitudes, and the
    /// largest such sum.
    struct Worst {
        std::array<double, arithmetics.size()> errors{};
        double weight = 0.0;
    };

    /// Takes a row in by its numbers of codes, and returns the sum of its weights.
    double add(std::span<const std::uint32_t> counts, Worst& worst) const noexcept {
        CodeTerms totals;
        weigh_(counts.data(), counts.size(), terms_.data(), totals);
        for (std::size_t i = 0; i < arithmetics.size(); ++i) {
            // Without weights that are not 0 any error is too large.
            if (totals[2 + i] > 0.0) {
                worst.errors[i] = std::max(worst.errors[i], totals[2 + i] / totals[1]);
            }
        }
        worst.weight = std::max(worst.weight, totals[1]);
        return totals[0];
    }

private:
    static_assert(2 + arithmetics.size() <= std::tuple_size_v<CodeTerms::array>);
    sell::WeighCounts weigh_;
    std::vector<CodeTerms> terms_;  // by code; those of code 0 are 0
};

}  // namespace tersor::spmm
