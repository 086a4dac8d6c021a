// What is done with products before they are written, on every route to a product.
#include "tersor/epilogue.hpp"

#include <bit>
#include <cmath>
#include <limits>

#include "isa_test.hpp"
#include "spmm_problem.hpp"
#include "tersor/conv.hpp"
#include "tersor/spmm.hpp"

namespace tersor {
namespace {

using test::IsaTest;
using test::make_problem;
using test::Problem;
using test::random_x;

class EpilogueTest : public IsaTest {};

constexpr std::array all_activations = {Activation::none, Activation::relu, Activation::relu6,
                                        Activation::gelu, Activation::silu};

double activate(double x, Activation activation) {
    switch (activation) {
        case Activation::none: return x;
        case Activation::relu: return std::isnan(x) ? x : std::max(x, 0.0);
        case Activation::relu6: return std::isnan(x) ? x : std::min(std::max(x, 0.0), 6.0);
        case Activation::gelu: return x * 0.5 * std::erfc(-x / std::sqrt(2.0));
        case Activation::silu: return x / (1.0 + std::exp(-x));
    }
    return x;
}

float widen(BFloat16 value) { return std::bit_cast<float>(std::uint32_t{value.bits} << 16U); }

/// Truncated: the tests need numbers that bfloat16 has, not the nearest ones.
std::vector<BFloat16> to_bfloat16(std::span<const float> values) {
    std::vector<BFloat16> out;
    for (const float v : values) {
        out.push_back({static_cast<std::uint16_t>(std::bit_cast<std::uint32_t>(v) >> 16U)});
    }
    return out;
}

std::vector<float> to_float(std::span<const BFloat16> values) {
    std::vector<float> out;
    for (const BFloat16 v : values) out.push_back(widen(v));
    return out;
}

void expect_close(double y, double expected, double tolerance) {
    if (std::isnan(expected)) {
        EXPECT_TRUE(std::isnan(y)) << y;
    } else if (std::isinf(expected)) {
        EXPECT_EQ(y, expected);
    } else {
        EXPECT_NEAR(y, expected, tolerance);
    }
}

/// A matrix of one non-zero a row, 1 in column 0: its product is x[0], whatever the arithmetic.
PackedMatrix column_of_ones(std::uint32_t rows) {
    const RelativeCsr csr =
        csr::encode(std::vector<std::uint8_t>(rows, std::uint8_t{1}), rows, 1, 4);
    PackedMatrix packed;
    EXPECT_TRUE(spmm::pack(csr, std::vector<float>{0.0F, 1.0F}, packed).ok());
    return packed;
}

// 0 * x plus a bias is any number at all, without an error of the product.
TEST_P(EpilogueTest, ActivationsAreThoseOfDoublePrecision) {
    std::vector<float> points;
    for (float x = -120.0F; x <= 120.0F; x += 0.0078F) points.push_back(x);
    for (const float x : {0.0F, 1e-40F, -1e-40F, 1e-20F, -1e-20F, 3e38F, -3e38F}) {
        points.push_back(x);
    }
    constexpr float infinity = std::numeric_limits<float>::infinity();
    points.insert(points.end(), {infinity, -infinity, std::nanf("")});
    const auto rows = static_cast<std::uint32_t>(points.size());
    const PackedMatrix packed = column_of_ones(rows);
    const std::vector<float> zero(1, 0.0F);
    for (const Activation activation : all_activations) {
        SCOPED_TRACE("activation " + std::to_string(static_cast<int>(activation)));
        std::vector<float> y(rows);
        spmm::multiply(packed, FloatView(zero), 1, {std::span<const float>(points), activation, {}},
                       FloatSpan(y));
        std::vector<BFloat16> narrow(rows);
        spmm::multiply(packed, FloatView(zero), 1, {std::span<const float>(points), activation, {}},
                       FloatSpan(narrow));
        for (std::size_t r = 0; r < rows; ++r) {
            SCOPED_TRACE(points[r]);
            const double expected = activate(points[r], activation);
            const double size = std::abs(double{points[r]});
            expect_close(y[r], expected, 4 * 0x1p-23 * size + 0x1p-147);
            // Rounded to the nearest, but for the error before.
            const double half = std::isfinite(expected) ? std::ldexp(std::abs(expected), -8) : 0.0;
            if (size < 1e38) {
                expect_close(widen(narrow[r]), expected, half + 4 * 0x1p-23 * size + 0x1p-134);
            }
        }
    }
}

TEST_P(EpilogueTest, RoundsToTheNearestEvenBfloat16) {
    const std::vector<float> sums = {0x1.01p0F,  0x1.03p0F,       0x1.010002p0F, 0x1.00fffep0F,
                                     -0x1.01p0F, 0x1.fffffep127F, 0x1p-149F};
    const std::vector<float> expected = {
        1.0F, 0x1.04p0F, 0x1.02p0F, 1.0F, -1.0F, std::numeric_limits<float>::infinity(), 0.0F};
    const PackedMatrix packed = column_of_ones(static_cast<std::uint32_t>(sums.size()));
    std::vector<BFloat16> y(sums.size());
    spmm::multiply(packed, FloatView(std::vector<float>(1, 0.0F)), 1,
                   {std::span<const float>(sums), Activation::none, {}}, FloatSpan(y));
    EXPECT_EQ(to_float(y), expected);
}

struct Types {
    bool x, bias, residual, y;  // whether bfloat16
};

/// y of a product with everything fused, in the given types, widened.
std::vector<float> multiply_as(const Types& types, const PackedMatrix& packed,
                               std::span<const float> x, std::size_t batch,
                               std::span<const float> bias, Activation activation,
                               std::span<const float> residual, Precision precision, int threads) {
    const auto x16 = to_bfloat16(x);
    const auto bias16 = to_bfloat16(bias);
    const auto residual16 = to_bfloat16(residual);
    std::vector<float> y(batch * packed.rows(), -1.0F);
    std::vector<BFloat16> y16(types.y ? y.size() : 0);
    const Epilogue epilogue{
        types.bias ? FloatView(std::span(bias16)) : FloatView(bias), activation,
        types.residual ? FloatView(std::span(residual16)) : FloatView(residual)};
    spmm::multiply(packed, types.x ? FloatView(std::span(x16)) : FloatView(x), batch, epilogue,
                   types.y ? FloatSpan(std::span(y16)) : FloatSpan(std::span(y)), precision,
                   threads);
    return types.y ? to_float(y16) : y;
}

// The fused result is the epilogue of the plain product, by every kernel and in every type.
TEST_P(EpilogueTest, EveryRouteIsFinishedOnce) {
    const Problem shared = make_problem(1100, 300, 0.1, 15, 5);
    PackedMatrix by_codes;
    ASSERT_TRUE(spmm::pack(shared.csr, shared.codebook, by_codes).ok());
    PackedMatrix plain;
    std::vector<float> values;
    RelativeCsr ones = shared.csr;
    for (std::uint8_t& code : ones.codes) {
        if (code == 0) continue;
        values.push_back(shared.codebook[code]);
        code = 1;
    }
    ASSERT_TRUE(spmm::pack_values(ones, values, plain).ok());
    const std::array types = {Types{false, false, false, false}, Types{true, true, true, true},
                              Types{true, false, true, false}, Types{false, true, false, true}};
    for (const PackedMatrix* packed : {&by_codes, &plain}) {
        for (const std::size_t batch : {1, 3, 7, 40, 70}) {
            // Numbers that bfloat16 has, so that every type stands for the same problem.
            auto x = to_float(to_bfloat16(random_x(batch * shared.cols, 1)));
            if (batch > 1) {
                x[5] = std::numeric_limits<float>::infinity();
                x[shared.cols + 6] = std::nanf("");
            }
            const auto bias = to_float(to_bfloat16(random_x(shared.rows, 2)));
            const auto residual = to_float(to_bfloat16(random_x(batch * shared.rows, 3)));
            for (const Precision precision :
                 {Precision::highest, Precision::high, Precision::medium, Precision::low}) {
                const auto product = multiply_as(types[0], *packed, x, batch, bias,
                                                 Activation::none, {}, precision, 2);
                for (const Activation activation : {Activation::none, Activation::silu}) {
                    for (const Types& t : types) {
                        SCOPED_TRACE("batch " + std::to_string(batch) + ", activation " +
                                     std::to_string(static_cast<int>(activation)));
                        const auto y = multiply_as(t, *packed, x, batch, bias, activation, residual,
                                                   precision, 2);
                        for (std::size_t i = 0; i < y.size(); ++i) {
                            const double sum = double{product[i]} + double{residual[i]};
                            const double expected = activate(sum, activation);
                            const double size =
                                std::abs(double{product[i]}) + std::abs(double{residual[i]});
                            const double rounding = t.y ? 0x1p-8 * std::abs(expected) : 0.0;
                            if (std::abs(y[i] - expected) <= 0x1p-20 * size + rounding) continue;
                            expect_close(y[i], expected, 0x1p-20 * size + rounding);
                            if (HasFailure()) return;
                        }
                    }
                }
            }
        }
    }
}

TEST_P(EpilogueTest, ConvolutionsAreFinishedAlike) {
    const Problem p = make_problem(6, 2 * 9, 0.5, 15, 9);
    PackedMatrix filters;
    ASSERT_TRUE(spmm::pack(p.csr, p.codebook, filters, LayoutHint::batch).ok());
    conv::Geometry g;
    g.in_channels = 2;
    g.input = {7, 9};
    g.kernel = {3, 3};
    g.padding = {1, 1};
    const std::size_t pixels = 7 * 9;
    const auto x = to_float(to_bfloat16(random_x(2 * 2 * pixels, 1)));
    const auto bias = random_x(6, 2);
    const auto residual = random_x(2 * 6 * pixels, 3);
    std::vector<float> product(residual.size());
    conv::convolve(filters, g, x, 2, bias, product);
    const auto x16 = to_bfloat16(x);
    for (const Activation activation : all_activations) {
        std::vector<float> y(residual.size());
        const Epilogue epilogue{std::span<const float>(bias), activation,
                                std::span<const float>(residual)};
        conv::convolve(filters, g, FloatView(std::span(x16)), 2, epilogue, FloatSpan(y));
        std::vector<BFloat16> narrow(y.size());
        conv::convolve(filters, g, FloatView(x), 2, epilogue, FloatSpan(narrow));
        for (std::size_t i = 0; i < y.size(); ++i) {
            const double sum = double{product[i]} + double{residual[i]};
            const double expected = activate(sum, activation);
            expect_close(y[i], expected, 0x1p-21 * std::abs(sum) + 0x1p-22);
            expect_close(widen(narrow[i]), expected, 0x1p-8 * std::abs(expected) + 0x1p-20);
        }
    }
    EXPECT_THROW(
        conv::convolve(filters, g, FloatView(x), 2,
                       {{}, Activation::relu, std::span<const float>(bias)}, FloatSpan(product)),
        std::invalid_argument);
}

TEST_P(EpilogueTest, WrongSizesAreRefused) {
    const PackedMatrix packed = column_of_ones(3);
    const std::vector<float> x(1);
    std::vector<float> y(3);
    EXPECT_THROW(spmm::multiply(packed, FloatView(x), 1,
                                {{}, Activation::none, std::span<const float>(x)}, FloatSpan(y)),
                 std::invalid_argument);
    EXPECT_THROW(spmm::multiply(packed, FloatView(x), 1,
                                {std::span<const float>(x), Activation::none, {}}, FloatSpan(y)),
                 std::invalid_argument);
}

TERSOR_ON_EVERY_ISA(EpilogueTest);

}  // namespace
}  // namespace tersor
