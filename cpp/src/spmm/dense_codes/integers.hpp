// Codebooks whose values are whole multiples of a step, as uniform quantization to 8 bits makes
// them. Dense slices of more than 16 such values hold the multiples as signed bytes instead of
// codes: a weight is one limb, without an error and without a look-up. The few weights beyond 127
// steps are kept beside them (dense and sparse, as Kim et al. 2023, "SqueezeLLM", arXiv 2306.07629,
// section 4.2): in the slices they are 0.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "spmm/fixed_point.hpp"

namespace tersor::spmm {

struct Integers {
    double step = 0.0;
    std::array<std::int8_t, 256> of_code{};   // the multiple that a code stands for; 0: an outlier
    std::array<std::uint8_t, 256> code_of{};  // the code of a multiple, by its byte

    [[nodiscard]] bool is_outlier(std::size_t code) const noexcept {
        return code != 0 && of_code[code] == 0;
    }
};

/// The integers of a codebook of more than 16 values: none where more than 16 values, or an eighth
/// of them, are beyond 127 steps, or another is further from a multiple than fp32 rounds, is 0, or
/// occurs twice.
[[nodiscard]] std::optional<Integers> find_integers(std::span<const float> codebook);

/// The codebook with 0 in place of outliers, whose products have no error to speak of.
[[nodiscard]] std::vector<float> without_outliers(const std::optional<Integers>& integers,
                                                  std::span<const float> codebook);

/// The same in limbs, of which all but the highest are 0: every arithmetic is then as precise as
/// one of a single limb.
[[nodiscard]] Limbs limbs_of(const Integers& integers, int count, int bits);

/// The weights of outlier codes, row by row.
struct Outliers {
    std::vector<std::uint32_t> row_starts;  // [rows + 1], or empty: there are none
    std::vector<std::uint32_t> columns;
    std::vector<std::uint8_t> codes;
    std::vector<float> values;

    [[nodiscard]] std::size_t nbytes() const noexcept {
        return 4 * (row_starts.size() + columns.size() + values.size()) + codes.size();
    }
    /// Their part of a row's product with x.
    [[nodiscard]] double product(std::size_t row, const float* x) const noexcept {
        double sum = 0.0;
        if (row_starts.empty()) return sum;
        for (std::size_t i = row_starts[row]; i < row_starts[row + 1]; ++i) {
            sum += double{values[i]} * double{x[columns[i]]};
        }
        return sum;
    }
    /// The same for the rows [begin, end), added to y, which has them all.
    void add_products(std::size_t begin, std::size_t end, const float* x, float* y) const noexcept {
        if (row_starts.empty()) return;
        for (std::size_t r = begin; r < end; ++r) {
            if (row_starts[r] == row_starts[r + 1]) continue;
            y[r] = static_cast<float>(double{y[r]} + product(r, x));
        }
    }
};

}  // namespace tersor::spmm
