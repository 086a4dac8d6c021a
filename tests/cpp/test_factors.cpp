// Factors of rows and columns in products, on every instruction set: the bounds of the classes for
// the x that is multiplied with factors, and rounding of what is multiplied with them.
#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>

#include "isa_test.hpp"
#include "spmm_problem.hpp"
#include "tersor/conv.hpp"
#include "tersor/spmm.hpp"

namespace tersor {
namespace {

using test::Problem;

constexpr double eps = 0x1p-23;

struct Scaled {
    Problem problem;
    std::vector<float> rows;
    std::vector<float> columns;

    [[nodiscard]] double weight(std::size_t r, std::size_t k) const {
        return double{problem.dense[r * problem.cols + k]} *
               (rows.empty() ? 1.0 : double{rows[r]}) *
               (columns.empty() ? 1.0 : double{columns[k]});
    }
};

/// Powers of 2^(1/4), as calibration chooses them, or none.
std::vector<float> factors(std::size_t size, unsigned seed, bool wanted) {
    std::vector<float> made;
    for (const float v : test::random_x(wanted ? size : 0, seed)) {
        made.push_back(std::exp2(std::round(4.0F * v) / 4.0F));
    }
    return made;
}

Scaled make_scaled(std::uint32_t rows, std::uint32_t cols, double density, bool of_rows,
                   bool of_columns) {
    return {test::make_problem(rows, cols, density, 12, 3), factors(rows, 4, of_rows),
            factors(cols, 5, of_columns)};
}

PackedMatrix packed(const Scaled& scaled, LayoutHint layout_hint) {
    PackedMatrix matrix;
    EXPECT_TRUE(spmm::pack(scaled.problem.csr, scaled.problem.codebook, matrix, layout_hint).ok());
    matrix.set_factors(scaled.rows, scaled.columns);
    return matrix;
}

double limit_of(Precision precision) {
    return precision == Precision::low      ? 0x1p-6
           : precision == Precision::medium ? 0x1p-13
                                            : 0x1p-18;
}

class Factors : public test::IsaTest {};

TEST_P(Factors, ProductsOfEveryClassAndBatchKeepTheirBounds) {
    for (const auto& [of_rows, of_columns] :
         {std::pair{true, false}, {false, true}, {true, true}}) {
        const Scaled scaled = make_scaled(70, 300, 0.2, of_rows, of_columns);
        const std::size_t rows = 70, cols = 300;
        for (const LayoutHint layout_hint : {LayoutHint::vector, LayoutHint::batch}) {
            const PackedMatrix matrix = packed(scaled, layout_hint);
            for (const Precision precision :
                 {Precision::highest, Precision::high, Precision::medium, Precision::low}) {
                for (const std::size_t batch : {1U, 3U, 14U, 70U}) {
                    const auto x = test::random_x(batch * cols, 6);
                    const auto bias = test::random_x(rows, 7);
                    const auto residual = test::random_x(batch * rows, 8);
                    std::vector<float> y(batch * rows);
                    spmm::multiply(matrix, FloatView(std::span<const float>(x)), batch,
                                   Epilogue{std::span<const float>(bias), Activation::relu,
                                            std::span<const float>(residual)},
                                   FloatSpan(std::span<float>(y)), precision, 2);
                    for (std::size_t n = 0; n < batch; ++n) {
                        double largest = 0.0;
                        for (std::size_t k = 0; k < cols; ++k) {
                            const double c = of_columns ? double{scaled.columns[k]} : 1.0;
                            largest = std::max(largest, std::abs(c * x[n * cols + k]));
                        }
                        for (std::size_t r = 0; r < rows; ++r) {
                            const double factor = of_rows ? double{scaled.rows[r]} : 1.0;
                            double sum = 0.0, own = 0.0, all = 0.0;
                            for (std::size_t k = 0; k < cols; ++k) {
                                const double product = scaled.weight(r, k) * x[n * cols + k];
                                sum += product;
                                own += std::abs(product);
                                all += std::abs(double{scaled.problem.dense[r * cols + k]});
                            }
                            const double added = sum + bias[r] + residual[n * rows + r];
                            // highest: at most 60 terms, and a rounding of each x.
                            const double bound =
                                precision == Precision::highest
                                    ? 40.0 * eps * own
                                    : limit_of(precision) * largest * all * factor + eps * own;
                            const double rounding =
                                4.0 * eps *
                                (own + std::abs(bias[r]) + std::abs(residual[n * rows + r]));
                            ASSERT_NEAR(y[n * rows + r], std::max(added, 0.0), bound + rounding)
                                << static_cast<int>(precision) << ' ' << batch << ' ' << r;
                        }
                    }
                }
            }
        }
    }
}

TEST_P(Factors, Bfloat16IsReadAndWritten) {
    const Scaled scaled = make_scaled(33, 90, 0.3, true, true);
    const PackedMatrix matrix = packed(scaled, LayoutHint::vector);
    const auto wide = test::random_x(2 * 90, 6);
    std::vector<BFloat16> x;
    std::vector<float> rounded;
    for (const float v : wide) {
        const auto bits = static_cast<std::uint16_t>(std::bit_cast<std::uint32_t>(v) >> 16U);
        x.push_back({bits});
        rounded.push_back(std::bit_cast<float>(std::uint32_t{bits} << 16U));
    }
    std::vector<float> expected(2 * 33);
    std::vector<float> y(2 * 33);
    spmm::multiply(matrix, rounded, 2, {}, expected, Precision::highest);
    spmm::multiply(matrix, FloatView(std::span<const BFloat16>(x)), 2, {},
                   FloatSpan(std::span<float>(y)), Precision::highest);
    EXPECT_EQ(y, expected);
    std::vector<BFloat16> narrow(2 * 33);
    spmm::multiply(matrix, FloatView(std::span<const BFloat16>(x)), 2, {},
                   FloatSpan(std::span<BFloat16>(narrow)), Precision::highest);
    for (std::size_t i = 0; i < y.size(); ++i) {
        const float back = std::bit_cast<float>(std::uint32_t{narrow[i].bits} << 16U);
        EXPECT_NEAR(back, y[i], std::abs(y[i]) / 256);
    }
}

TEST_P(Factors, TheTransposedAndRevaluedMatricesHaveThem) {
    const Scaled scaled = make_scaled(20, 50, 0.3, true, true);
    const PackedMatrix matrix = packed(scaled, LayoutHint::vector);
    std::vector<float> dense(20 * 50), transposed(50 * 20), revalued(20 * 50);
    matrix.unpack(dense);
    matrix.transposed().unpack(transposed);
    std::vector<float> twice = scaled.problem.codebook;
    for (float& value : twice) value *= 2.0F;
    matrix.with_codebook(twice).unpack(revalued);
    std::vector<float> inside(20 * 50);
    matrix.with_factors_inside().unpack(inside);
    EXPECT_EQ(inside, dense);
    for (std::size_t r = 0; r < 20; ++r) {
        for (std::size_t k = 0; k < 50; ++k) {
            const double wanted = scaled.weight(r, k);
            ASSERT_NEAR(dense[r * 50 + k], wanted, eps * std::abs(wanted));
            ASSERT_NEAR(transposed[k * 20 + r], wanted, eps * std::abs(wanted));
            ASSERT_EQ(revalued[r * 50 + k], 2.0F * dense[r * 50 + k]);
        }
    }
}

TEST_P(Factors, TheGradientOfTheCodebookHasThem) {
    const Scaled scaled = make_scaled(20, 50, 0.3, true, true);
    const PackedMatrix matrix = packed(scaled, LayoutHint::vector);
    const auto x = test::random_x(3 * 50, 6);
    const auto gradient = test::random_x(3 * 20, 7);
    std::vector<float> sums(13);
    spmm::sum_by_code(matrix, x, gradient, 3, 0, 20, sums);
    std::vector<double> expected(13);
    for (std::size_t r = 0; r < 20; ++r) {
        for (std::size_t k = 0; k < 50; ++k) {
            const float value = scaled.problem.dense[r * 50 + k];
            if (value == 0.0F) continue;
            const auto& book = scaled.problem.codebook;
            const auto code =
                static_cast<std::size_t>(std::find(book.begin(), book.end(), value) - book.begin());
            for (std::size_t n = 0; n < 3; ++n) {
                expected[code] += double{x[n * 50 + k]} * double{gradient[n * 20 + r]} *
                                  double{scaled.rows[r]} * double{scaled.columns[k]};
            }
        }
    }
    for (std::size_t c = 0; c < 13; ++c) EXPECT_NEAR(sums[c], expected[c], 1e-3) << c;
}

TEST_P(Factors, AConvolutionHasThem) {
    // A factor for each tap as well as for each filter.
    const Scaled scaled = make_scaled(6, 4 * 9, 0.4, true, true);
    const PackedMatrix filters = packed(scaled, LayoutHint::batch);
    conv::Geometry geometry;
    geometry.in_channels = 4;
    geometry.input = {7, 6};
    geometry.kernel = {3, 3};
    const auto x = test::random_x(4 * 7 * 6, 6);
    const auto bias = test::random_x(6, 7);
    std::vector<float> y(6 * 5 * 4);
    conv::convolve(filters, geometry, x, 1, bias, y);
    for (std::size_t o = 0; o < 6; ++o) {
        for (std::size_t h = 0; h < 5; ++h) {
            for (std::size_t w = 0; w < 4; ++w) {
                double sum = bias[o];
                double own = std::abs(bias[o]);
                for (std::size_t k = 0; k < 36; ++k) {
                    const std::size_t at = k / 9 * 42 + (h + k / 3 % 3) * 6 + w + k % 3;
                    sum += scaled.weight(o, k) * x[at];
                    own += std::abs(scaled.weight(o, k) * x[at]);
                }
                ASSERT_NEAR(y[o * 20 + h * 4 + w], sum, 30.0 * eps * own);
            }
        }
    }
}

TEST_P(Factors, WhatIsNotFiniteSpreads) {
    const Scaled scaled = make_scaled(20, 50, 0.3, true, true);
    const PackedMatrix matrix = packed(scaled, LayoutHint::vector);
    auto x = test::random_x(50, 6);
    x[7] = std::numeric_limits<float>::infinity();
    std::vector<float> y(20);
    spmm::multiply(matrix, x, 1, {}, y);
    for (std::size_t r = 0; r < 20; ++r) EXPECT_FALSE(std::isfinite(y[r])) << r;
}

TEST_P(Factors, WrongOnesAreRefused) {
    const Scaled scaled = make_scaled(20, 50, 0.3, true, true);
    PackedMatrix matrix = packed(scaled, LayoutHint::vector);
    const std::vector<float> nan(20, std::numeric_limits<float>::quiet_NaN());
    EXPECT_THROW(matrix.set_factors(std::vector<float>(19, 1.0F), {}), std::invalid_argument);
    EXPECT_THROW(matrix.set_factors({}, std::vector<float>(20, 1.0F)), std::invalid_argument);
    EXPECT_THROW(matrix.set_factors(nan, {}), std::invalid_argument);
    PackedMatrix().set_factors({}, {});
}

TERSOR_ON_EVERY_ISA(Factors);

}  // namespace
}  // namespace tersor
