// Convolutions of every class against their definition in double, over random geometries.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>

#include "conv_problem.hpp"
#include "isa_test.hpp"
#include "tersor/conv.hpp"

namespace tersor {
namespace {

using conv::Geometry;
using test::ConvCase;
using test::Problem;

class ConvPrecision : public test::IsaTest {};
TERSOR_ON_EVERY_ISA(ConvPrecision);

constexpr Precision classes[] = {Precision::highest, Precision::high, Precision::medium,
                                 Precision::low};

double limit_of(Precision precision, const test::ConvReference& expected) {
    // Its denormal products are what fp32 has no digits for.
    const double denormal = expected.terms * 0x1p-149;
    const double n = expected.terms;
    const double fp32 = (4.0 + std::min(n, 256.0) / 2 + n / 32) * 0x1p-23 * expected.magnitude;
    const double scale = expected.largest * expected.weights;
    switch (precision) {
        case Precision::highest: return fp32 + denormal;
        case Precision::high: return 0x1p-18 * scale + denormal;
        case Precision::medium: return 0x1p-13 * scale + denormal;
        case Precision::low: break;
    }
    return 0x1p-6 * scale + denormal;
}

Problem problem_of(const ConvCase& c, std::vector<float> codebook, unsigned seed) {
    const Geometry& g = c.geometry;
    const std::uint32_t cols = g.in_channels / g.groups * g.kernel.h * g.kernel.w;
    return test::make_problem(c.filters, cols, c.density, std::move(codebook), seed);
}

void expect_class(const ConvCase& c, const Problem& p, const std::vector<float>& x,
                  std::size_t batch, Precision precision, const std::vector<float>& y) {
    const Geometry& g = c.geometry;
    const conv::Pair size = conv::output_size(g);
    const std::size_t pixels = std::size_t{size.h} * size.w;
    ASSERT_EQ(y.size(), batch * c.filters * pixels);
    for (std::size_t i = 0; i < y.size(); ++i) {
        const std::size_t pixel = i % pixels;
        const auto row = static_cast<std::uint32_t>(i / pixels % c.filters);
        const test::ConvReference expected = test::conv_reference(
            p, g, x, i / pixels / c.filters, row, static_cast<std::uint32_t>(pixel / size.w),
            static_cast<std::uint32_t>(pixel % size.w));
        ASSERT_LE(std::abs(double{y[i]} - expected.value), limit_of(precision, expected))
            << test::describe(c) << " output " << i << " class " << static_cast<int>(precision);
    }
}

/// The outputs, which must not depend on the number of threads.
std::vector<float> convolve(const PackedMatrix& filters, const ConvCase& c,
                            const std::vector<float>& x, std::size_t batch, Precision precision) {
    const conv::Pair size = conv::output_size(c.geometry);
    std::vector<float> y(batch * c.filters * size.h * size.w, -77.0F);
    std::vector<float> again(y.size(), 77.0F);
    conv::convolve(filters, c.geometry, x, batch, {}, y, precision, 1);
    conv::convolve(filters, c.geometry, x, batch, {}, again, precision, 3);
    EXPECT_EQ(y, again) << test::describe(c);
    return y;
}

std::size_t image_size(const Geometry& g) {
    return std::size_t{g.in_channels} * g.input.h * g.input.w;
}

const std::vector<float> usual_codebook = {0.0F,  -1.3F, -1.1F, -0.7F, -0.5F, -0.31F,
                                           0.26F, 0.4F,  0.63F, 0.9F,  1.24F, 2.05F};

TEST_P(ConvPrecision, RandomGeometriesMeetEveryClass) {
    std::mt19937 generator(7);
    for (unsigned seed = 0; seed < 60; ++seed) {
        const ConvCase c = test::random_conv_case(generator);
        const Problem p = problem_of(c, usual_codebook, seed);
        PackedMatrix filters;
        ASSERT_TRUE(spmm::pack(p.csr, p.codebook, filters, LayoutHint::batch).ok());
        const std::size_t batch = seed % 8 == 0 ? 17 : 1 + seed % 2;
        const auto x = test::random_x(batch * image_size(c.geometry), seed);
        for (const Precision precision : classes) {
            expect_class(c, p, x, batch, precision, convolve(filters, c, x, batch, precision));
        }
    }
}

TEST_P(ConvPrecision, AllKindsOfActivationsMeetEveryClass) {
    const ConvCase c{
        {.in_channels = 6, .input = {9, 20}, .kernel = {3, 3}, .padding = {1, 1}}, 5, 0.6};
    const Problem p = problem_of(c, usual_codebook, 3);
    PackedMatrix filters;
    ASSERT_TRUE(spmm::pack(p.csr, p.codebook, filters, LayoutHint::batch).ok());
    const std::size_t size = image_size(c.geometry);
    for (const test::KindOfActivation& kind : test::kinds_of_activation(size)) {
        SCOPED_TRACE(kind.name);
        auto x = test::random_x(size, 5);
        for (std::size_t k = 0; k < size; ++k) x[k] = kind.make(x[k], k);
        for (const Precision precision : classes) {
            expect_class(c, p, x, 1, precision, convolve(filters, c, x, 1, precision));
        }
    }
}

TEST_P(ConvPrecision, WeightsThatFewBitsCannotHoldUseMore) {
    const ConvCase c{
        {.in_channels = 40, .input = {5, 17}, .kernel = {3, 3}, .padding = {1, 1}}, 6, 0.9};
    const std::vector<std::vector<float>> codebooks = {
        {0.0F, 1000.0F, 0.01F, -0.011F, 0.0103F, 0.013F},  // one weight hides the others
        {0.0F, 1e-38F, -2e-38F},
        {0.0F, 3e34F, -1e34F},
        {0.0F, 0.0F, 1.0F},  // a code of its own for zero
        {0.0F, 1.0F},
    };
    for (std::size_t k = 0; k < codebooks.size(); ++k) {
        SCOPED_TRACE(k);
        const Problem p = problem_of(c, codebooks[k], 11);
        PackedMatrix filters;
        ASSERT_TRUE(spmm::pack(p.csr, p.codebook, filters, LayoutHint::batch).ok());
        const auto x = test::random_x(2 * image_size(c.geometry), 12);
        for (const Precision precision : classes) {
            expect_class(c, p, x, 2, precision, convolve(filters, c, x, 2, precision));
        }
    }
}

TEST_P(ConvPrecision, LongRowsOfEqualSignsStayWithinTheirSums) {
    // 16-bit integers overflow 32 bits after a few dozen of the largest products.
    const ConvCase c{
        {.in_channels = 600, .input = {4, 5}, .kernel = {3, 3}, .padding = {1, 1}}, 3, 1.0};
    const Problem p = problem_of(c, {0.0F, 1.0F, 0.999F, 0.9F}, 4);
    PackedMatrix filters;
    ASSERT_TRUE(spmm::pack(p.csr, p.codebook, filters, LayoutHint::batch).ok());
    const std::vector<float> x(image_size(c.geometry), 3.0F);
    for (const Precision precision : classes) {
        expect_class(c, p, x, 1, precision, convolve(filters, c, x, 1, precision));
    }
}

TEST_P(ConvPrecision, LargeKernelsAreCutIntoSlices) {
    const ConvCase c{
        {.in_channels = 2, .input = {33, 40}, .kernel = {31, 29}, .padding = {15, 9}}, 2, 0.5};
    const Problem p = problem_of(c, usual_codebook, 8);
    PackedMatrix filters;
    ASSERT_TRUE(spmm::pack(p.csr, p.codebook, filters, LayoutHint::batch).ok());
    const auto x = test::random_x(image_size(c.geometry), 9);
    for (const Precision precision : classes) {
        expect_class(c, p, x, 1, precision, convolve(filters, c, x, 1, precision));
    }
}

TEST_P(ConvPrecision, DepthwiseFiltersMeetEveryClass) {
    std::mt19937 generator(3);
    for (unsigned seed = 0; seed < 24; ++seed) {
        const std::uint32_t kernel = seed % 2 == 0 ? 3 : 5;
        const std::uint32_t stride = 1 + seed / 2 % 2;
        const std::uint32_t padding = seed / 4 % 3;
        const std::uint32_t channels = 3 + seed % 3;
        const auto side = [&] { return kernel + static_cast<std::uint32_t>(generator() % 30); };
        const ConvCase c{{.in_channels = channels,
                          .groups = channels,
                          .input = {side(), side()},
                          .kernel = {kernel, kernel},
                          .stride = {stride, stride},
                          .padding = {padding, padding}},
                         channels * (1 + seed % 2),
                         seed % 5 == 0 ? 0.1 : 0.9};
        const Problem p = problem_of(c, usual_codebook, seed);
        PackedMatrix filters;
        ASSERT_TRUE(spmm::pack(p.csr, p.codebook, filters, LayoutHint::batch).ok());
        const std::size_t batch = 1 + seed % 3;
        const auto x = test::random_x(batch * image_size(c.geometry), seed);
        for (const Precision precision : classes) {
            expect_class(c, p, x, batch, precision, convolve(filters, c, x, batch, precision));
        }
    }
}

TEST_P(ConvPrecision, SeventeenImagesAreSixteenInLanesAndOne) {
    for (const std::uint32_t stride : {1U, 2U}) {
        const ConvCase c{{.in_channels = 20,
                          .input = {7, 7},
                          .kernel = {3, 3},
                          .stride = {stride, stride},
                          .padding = {1, 1}},
                         40,
                         0.4};
        const Problem p = problem_of(c, usual_codebook, 5);
        PackedMatrix filters;
        ASSERT_TRUE(spmm::pack(p.csr, p.codebook, filters, LayoutHint::batch).ok());
        auto x = test::random_x(17 * image_size(c.geometry), 6);
        // Images of very different ranges each keep their own.
        for (std::size_t i = 0; i < x.size(); ++i) {
            x[i] *= std::ldexp(1.0F, static_cast<int>(i / image_size(c.geometry)) - 8);
        }
        for (const Precision precision : classes) {
            expect_class(c, p, x, 17, precision, convolve(filters, c, x, 17, precision));
        }
    }
}

TEST_P(ConvPrecision, EpiloguesAreThoseOfTheSumsInEveryLayout) {
    const ConvCase all[] = {
        {{.in_channels = 20, .input = {7, 7}, .kernel = {3, 3}, .padding = {1, 1}}, 24, 0.4},
        {{.in_channels = 6, .groups = 6, .input = {9, 21}, .kernel = {3, 3}, .padding = {1, 1}},
         6,
         1.0}};
    constexpr std::size_t batch = 17;
    for (const ConvCase& c : all) {
        const Problem p = problem_of(c, usual_codebook, 5);
        PackedMatrix filters;
        ASSERT_TRUE(spmm::pack(p.csr, p.codebook, filters, LayoutHint::batch).ok());
        const auto x = test::random_x(batch * image_size(c.geometry), 6);
        for (const Precision precision : {Precision::high, Precision::low}) {
            const std::vector<float> sums = convolve(filters, c, x, batch, precision);
            const std::vector<float> bias = test::random_x(c.filters, 7);
            const std::vector<float> residual = test::random_x(sums.size(), 8);
            const std::size_t pixels = sums.size() / batch / c.filters;
            for (const Activation activation :
                 {Activation::none, Activation::relu, Activation::relu6, Activation::silu}) {
                for (const bool adds : {false, true}) {
                    std::vector<float> y(sums.size());
                    Epilogue epilogue{FloatView(bias), activation, {}};
                    if (adds) epilogue.residual = FloatView(residual);
                    conv::convolve(filters, c.geometry, FloatView(x), batch, epilogue, FloatSpan(y),
                                   precision, 2);
                    for (std::size_t i = 0; i < y.size(); ++i) {
                        const double b{bias[i / pixels % c.filters]};
                        const double s = sums[i] + b + (adds ? double{residual[i]} : 0.0);
                        const double expected = activation == Activation::none   ? s
                                                : activation == Activation::relu ? std::max(s, 0.0)
                                                : activation == Activation::relu6
                                                    ? std::clamp(s, 0.0, 6.0)
                                                    : s / (1.0 + std::exp(-s));
                        ASSERT_NEAR(y[i], expected, 1e-5 * (1.0 + std::abs(s)))
                            << test::describe(c) << " output " << i << " activation "
                            << static_cast<int>(activation);
                    }
                }
            }
        }
    }
}

TEST_P(ConvPrecision, WhatIsNotFiniteReachesTheOutputsThatReadIt) {
    const ConvCase c{
        {.in_channels = 4, .input = {8, 21}, .kernel = {3, 3}, .padding = {1, 1}}, 3, 0.5};
    const Problem p = problem_of(c, usual_codebook, 6);
    PackedMatrix filters;
    ASSERT_TRUE(spmm::pack(p.csr, p.codebook, filters, LayoutHint::batch).ok());
    constexpr float infinity = std::numeric_limits<float>::infinity();
    auto x = test::random_x(3 * image_size(c.geometry), 9);
    x[100] = std::numeric_limits<float>::quiet_NaN();
    x[2 * image_size(c.geometry) + 5] = infinity;
    const conv::Pair size = conv::output_size(c.geometry);
    const std::size_t pixels = std::size_t{size.h} * size.w;
    for (const Precision precision : classes) {
        const std::vector<float> y = [&] {
            std::vector<float> made(3 * c.filters * pixels);
            conv::convolve(filters, c.geometry, x, 3, {}, made, precision, 1);
            return made;
        }();
        for (std::size_t i = 0; i < y.size(); ++i) {
            const auto row = static_cast<std::uint32_t>(i / pixels % c.filters);
            const std::size_t pixel = i % pixels;
            const test::ConvReference expected =
                test::conv_reference(p, c.geometry, x, i / pixels / c.filters, row,
                                     static_cast<std::uint32_t>(pixel / size.w),
                                     static_cast<std::uint32_t>(pixel % size.w));
            if (std::isnan(expected.value)) {
                EXPECT_TRUE(std::isnan(y[i])) << i;
            } else if (std::isinf(expected.value)) {
                EXPECT_EQ(double{y[i]}, expected.value) << i;
            } else if (i / pixels / c.filters == 1) {  // the image that is finite
                ASSERT_LE(std::abs(double{y[i]} - expected.value), limit_of(precision, expected));
            } else {
                EXPECT_NEAR(y[i], expected.value, 1e-4) << i;
            }
        }
    }
}

}  // namespace
}  // namespace tersor
