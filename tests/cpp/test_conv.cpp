#include "tersor/conv.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>
#include <thread>

#include "conv_problem.hpp"
#include "isa_test.hpp"

namespace tersor {
namespace {

using conv::Geometry;
using test::Problem;

using Case = test::ConvCase;

std::vector<Case> cases() {
    std::vector<Case> all;
    const auto add = [&](Geometry g, std::uint32_t filters, double density) {
        all.push_back({g, filters, density});
    };
    add({.in_channels = 1, .input = {28, 28}, .kernel = {5, 5}}, 20, 0.7);
    add({.in_channels = 6, .groups = 2, .input = {9, 13}, .kernel = {3, 3}, .padding = {1, 1}}, 8,
        0.3);
    add({.in_channels = 3,
         .input = {17, 40},
         .kernel = {3, 5},
         .stride = {2, 3},
         .padding = {2, 1}},
        5, 0.4);
    add({.in_channels = 4, .input = {15, 11}, .kernel = {3, 2}, .dilation = {2, 3}}, 7, 0.5);
    add({.in_channels = 2, .input = {7, 7}, .kernel = {1, 1}, .stride = {3, 3}}, 3, 1.0);
    add({.in_channels = 1,
         .input = {3, 3},
         .kernel = {3, 3},
         .padding = {4, 4},
         .dilation = {3, 3}},
        4, 0.6);
    add({.in_channels = 40, .input = {6, 6}, .kernel = {3, 3}, .padding = {1, 1}}, 4, 1.0);
    // Phases that no tap reads, taps that share some, strides past the kernel and the input.
    add({.in_channels = 2,
         .input = {9, 14},
         .kernel = {3, 2},
         .stride = {4, 6},
         .padding = {3, 5},
         .dilation = {2, 4}},
        4, 0.8);
    add({.in_channels = 2, .input = {1, 2}, .kernel = {1, 1}, .stride = {3, 4}, .padding = {3, 7}},
        3, 1.0);
    add({.in_channels = 2,
         .input = {2, 30},
         .kernel = {1, 4},
         .stride = {1000, 6},
         .padding = {999, 2},
         .dilation = {1, 3}},
        3, 1.0);
    add({.in_channels = 5, .groups = 5, .input = {8, 70}, .kernel = {2, 3}}, 10, 0.0);
    return all;
}

class Conv : public test::IsaTest {};
TERSOR_ON_EVERY_ISA(Conv);

TEST_P(Conv, MeetsTheFp32BoundOfTheDefinition) {
    unsigned seed = 1;
    for (const Case& c : cases()) {
        const Geometry& g = c.geometry;
        const std::uint32_t cols = g.in_channels / g.groups * g.kernel.h * g.kernel.w;
        const Problem p = test::make_problem(c.filters, cols, c.density, 15, ++seed);
        PackedMatrix filters;
        ASSERT_TRUE(spmm::pack(p.csr, p.codebook, filters, LayoutHint::batch).ok());
        constexpr std::size_t batch = 2;
        const auto x = test::random_x(batch * g.in_channels * g.input.h * g.input.w, seed);
        const auto bias = test::random_x(c.filters, seed + 100);
        const conv::Pair size = conv::output_size(g);
        const std::size_t pixels = std::size_t{size.h} * size.w;
        for (const int threads : {1, 2}) {
            std::vector<float> y(batch * c.filters * pixels, -77.0F);
            conv::convolve(filters, g, x, batch, bias, y, Precision::highest, threads);
            for (std::size_t i = 0; i < y.size(); ++i) {
                const std::size_t pixel = i % pixels;
                const auto row = static_cast<std::uint32_t>(i / pixels % c.filters);
                const test::ConvReference expected =
                    test::conv_reference(p, g, x, i / pixels / c.filters, row,
                                         static_cast<std::uint32_t>(pixel / size.w),
                                         static_cast<std::uint32_t>(pixel % size.w));
                const double n = expected.terms + 1;  // the bias is one more term
                const double factor = 4.0 + std::min(n, 256.0) / 2 + n / 32;
                const double bound = factor * std::numeric_limits<float>::epsilon() *
                                     (expected.magnitude + std::abs(double{bias[row]}));
                ASSERT_LE(std::abs(double{y[i]} - expected.value - double{bias[row]}), bound)
                    << "case " << seed << " output " << i;
            }
        }
    }
}

TEST_P(Conv, DoesWithoutABiasAndWithoutImages) {
    const Geometry g{.in_channels = 1, .input = {4, 4}, .kernel = {2, 2}};
    const Problem p = test::make_problem(3, 4, 1.0, 15, 1);
    PackedMatrix filters;
    ASSERT_TRUE(spmm::pack(p.csr, p.codebook, filters, LayoutHint::batch).ok());
    conv::convolve(filters, g, {}, 0, {}, {});
    const std::vector<float> x(16, 0.0F);
    std::vector<float> y(27, 5.0F);
    conv::convolve(filters, g, x, 1, {}, y);
    EXPECT_EQ(y, std::vector<float>(27, 0.0F));
}

TEST_P(Conv, ThreadsShareFiltersAndTheirPlans) {
    const Problem p = test::make_problem(6, 18, 0.5, 15, 1);
    PackedMatrix filters;
    ASSERT_TRUE(spmm::pack(p.csr, p.codebook, filters, LayoutHint::batch).ok());
    // More sizes of images than plans are kept.
    constexpr std::uint32_t sizes = 12;
    const auto run = [&](std::uint32_t size) {
        const Geometry g{.in_channels = 2, .input = {size + 3, size + 5}, .kernel = {3, 3}};
        const auto x = test::random_x(std::size_t{2} * (size + 3) * (size + 5), size);
        std::vector<float> y(std::size_t{6} * (size + 1) * (size + 3));
        conv::convolve(filters, g, x, 1, {}, y, size % 2 == 0 ? Precision::high : Precision::low);
        return y;
    };
    std::vector<std::vector<float>> expected;
    for (std::uint32_t size = 0; size < sizes; ++size) expected.push_back(run(size));
    const std::size_t kept = filters.nbytes();
    std::vector<std::thread> threads;
    std::atomic<int> wrong = 0;
    for (std::uint32_t t = 0; t < 4; ++t) {
        threads.emplace_back([&, t] {
            for (std::uint32_t k = 0; k < 5 * sizes; ++k) {
                const std::uint32_t size = (k * (2 * t + 1)) % sizes;
                if (run(size) != expected[size]) ++wrong;
            }
        });
    }
    for (std::thread& thread : threads) thread.join();
    EXPECT_EQ(wrong, 0);
    EXPECT_LT(filters.nbytes(), 2 * kept);
}

TEST(ConvGeometry, SizesAreThoseOfTheDefinitionAndMistakesThrow) {
    Geometry g{.in_channels = 4, .groups = 2, .input = {11, 8}, .kernel = {3, 3}, .stride = {2, 1}};
    EXPECT_EQ(conv::output_size(g).h, 5U);
    EXPECT_EQ(conv::output_size(g).w, 6U);
    const Problem p = test::make_problem(4, 18, 0.5, 15, 1);
    PackedMatrix filters;
    ASSERT_TRUE(spmm::pack(p.csr, p.codebook, filters, LayoutHint::batch).ok());
    std::vector<float> x(4 * 11 * 8);
    std::vector<float> y(4 * 5 * 6);
    EXPECT_NO_THROW(conv::convolve(filters, g, x, 1, {}, y));
    const std::span<const float> short_x(x.data(), x.size() - 1);
    EXPECT_THROW(conv::convolve(filters, g, short_x, 1, {}, y), std::invalid_argument);
    EXPECT_THROW(conv::convolve(filters, g, x, 1, std::span<const float>(x).first(3), y),
                 std::invalid_argument);
    EXPECT_THROW(conv::convolve(filters, g, x, 2, {}, y), std::invalid_argument);
    Geometry wrong = g;
    wrong.groups = 3;
    EXPECT_THROW(conv::convolve(filters, wrong, x, 1, {}, y), std::invalid_argument);
    wrong = g;
    wrong.stride.h = 0;
    EXPECT_THROW((void)conv::output_size(wrong), std::invalid_argument);
    wrong = g;
    wrong.dilation.w = 9;
    EXPECT_THROW((void)conv::output_size(wrong), std::invalid_argument);
}

}  // namespace
}  // namespace tersor
