#include "tersor/kmeans.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <stdexcept>

namespace tersor {
namespace {

std::vector<float> normal(std::size_t size, unsigned seed) {
    std::mt19937 generator(seed);
    std::normal_distribution<float> distribution;
    std::vector<float> x(size);
    for (float& v : x) v = distribution(generator);
    return x;
}

/// The optimum by trying every partition of the sorted values, O(k n^2).
double optimal_distortion(std::vector<float> x, int clusters) {
    std::sort(x.begin(), x.end());
    const std::size_t n = x.size();
    const auto cost = [&](std::size_t begin, std::size_t end) {
        double mean = 0.0, sum = 0.0;
        for (std::size_t i = begin; i < end; ++i) mean += x[i];
        mean /= static_cast<double>(end - begin);
        for (std::size_t i = begin; i < end; ++i) sum += (x[i] - mean) * (x[i] - mean);
        return sum;
    };
    std::vector<double> best(n + 1, std::numeric_limits<double>::infinity());
    best[0] = 0.0;
    for (int k = 0; k < clusters; ++k) {
        std::vector<double> next = best;
        for (std::size_t end = 1; end <= n; ++end) {
            for (std::size_t begin = 0; begin < end; ++begin) {
                next[end] = std::min(next[end], best[begin] + cost(begin, end));
            }
        }
        best = next;
    }
    return best[n];
}

TEST(KMeans, ExactModeFindsTheOptimum) {
    for (const int k : {1, 2, 3, 7}) {
        const auto x = normal(60, static_cast<unsigned>(k));
        std::vector<std::uint8_t> codes(x.size());
        const auto result = kmeans::cluster(x, k, {}, codes);
        EXPECT_NEAR(result.distortion, optimal_distortion(x, k), 1e-5);
        EXPECT_EQ(result.values.size(), static_cast<std::size_t>(k));
    }
}

TEST(KMeans, ExactIsNoWorseThanLloydOnManyValues) {
    const auto x = normal(100000, 5);
    std::vector<std::uint8_t> codes(x.size());
    const double exact = kmeans::cluster(x, 15, {}, codes).distortion;
    for (const auto init : {kmeans::Initialization::linear, kmeans::Initialization::density,
                            kmeans::Initialization::random}) {
        kmeans::Options options;
        options.mode = kmeans::Mode::lloyd;
        options.initialization = init;
        EXPECT_LE(exact, kmeans::cluster(x, 15, {}, codes, options).distortion * 1.0001);
    }
}

TEST(KMeans, CodesNameTheNearestValueAndThreadsChangeNothing) {
    const auto x = normal(20000, 6);
    std::vector<std::uint8_t> codes(x.size()), parallel(x.size());
    const auto result = kmeans::cluster(x, 16, {}, codes);
    kmeans::Options options;
    options.threads = 3;
    EXPECT_EQ(kmeans::cluster(x, 16, {}, parallel, options).values, result.values);
    EXPECT_EQ(codes, parallel);
    EXPECT_TRUE(std::is_sorted(result.values.begin(), result.values.end()));
    for (std::size_t i = 0; i < x.size(); ++i) {
        const float own = std::abs(x[i] - result.values[codes[i] - 1U]);
        for (const float value : result.values) ASSERT_LE(own, std::abs(x[i] - value) + 1e-6F);
    }
}

TEST(KMeans, ImportanceMovesTheMean) {
    const std::vector<float> x = {0.0F, 1.0F};
    const std::vector<float> importance = {1.0F, 3.0F};
    std::vector<std::uint8_t> codes(2);
    EXPECT_FLOAT_EQ(kmeans::cluster(x, 1, importance, codes).values[0], 0.75F);
    EXPECT_FLOAT_EQ(kmeans::cluster(x, 1, std::vector<float>(2, 0.0F), codes).values[0], 0.5F);
}

TEST(KMeans, FewerValuesThanClustersAreKeptAsTheyAre) {
    const std::vector<float> x = {2.0F, -1.0F, 2.0F};
    std::vector<std::uint8_t> codes(3);
    const auto result = kmeans::cluster(x, 10, {}, codes);
    EXPECT_EQ(result.values, (std::vector<float>{-1.0F, 2.0F}));
    EXPECT_EQ(codes, (std::vector<std::uint8_t>{2, 1, 2}));
    EXPECT_TRUE(kmeans::cluster({}, 3, {}, {}).values.empty());
}

TEST(KMeans, RefusesWrongArguments) {
    std::vector<std::uint8_t> codes(2);
    const std::vector<float> x = {1.0F, 2.0F};
    const std::vector<float> nan = {1.0F, std::nanf("")};
    EXPECT_THROW((void)kmeans::cluster(x, 0, {}, codes), std::invalid_argument);
    EXPECT_THROW((void)kmeans::cluster(x, 256, {}, codes), std::invalid_argument);
    EXPECT_THROW((void)kmeans::cluster(nan, 2, {}, codes), std::invalid_argument);
    EXPECT_THROW((void)kmeans::cluster(x, 2, std::vector<float>{1.0F}, codes),
                 std::invalid_argument);
    EXPECT_THROW((void)kmeans::cluster(x, 2, std::vector<float>{1.0F, -1.0F}, codes),
                 std::invalid_argument);
}

}  // namespace
}  // namespace tersor
