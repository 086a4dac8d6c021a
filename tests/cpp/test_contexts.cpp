// The adaptive coder: its tables, its bits, and matrices of codes.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>

#include "contexts/logarithm.hpp"
#include "contexts/matrix.hpp"
#include "contexts/predictor.hpp"
#include "contexts/range_coder.hpp"

namespace tersor::contexts {
namespace {

using Bytes = std::vector<std::uint8_t>;

TEST(ContextLogarithm, TablesAreTheNearestIntegers) {
    for (int i = 0; i < octave; ++i) {
        const auto at = static_cast<std::size_t>(i);
        EXPECT_EQ(logarithms[at], std::lround(octave * std::log2(1 + (i + .5) / octave))) << i;
        EXPECT_EQ(powers[at], std::lround(65536 * std::exp2(i / 256.0))) << i;
    }
}

TEST(ContextLogarithm, IsWithinAStepOfTheExactOne) {
    for (std::uint64_t x = 1; x < (std::uint64_t{1} << 62); x += x / 3 + 1) {
        EXPECT_NEAR(logarithm(x), octave * std::log2(static_cast<double>(x)), 1.5) << x;
    }
}

TEST(ContextLogarithm, ProbabilitiesAreNeverCertain) {
    constexpr int most = 14 * octave - 1;
    for (int x = -most; x <= most; ++x) {
        const std::uint32_t probability = probability_of(x);
        EXPECT_NEAR(probability, 65536 / (1 + std::exp2(-x / 256.0)), 1) << x;
        EXPECT_GT(probability, 0U);
        EXPECT_LT(probability, 65536U);
    }
}

TEST(RangeCoder, GivesBackBitsOfAnyProbability) {
    std::mt19937 generator(1);
    for (const std::size_t count : {0U, 1U, 7U, 5000U}) {
        std::vector<std::pair<std::uint32_t, bool>> bits(count);
        for (auto& [probability, bit] : bits) {
            probability = 1 + generator() % 65535;
            if (generator() % 8 == 0) probability = 1;
            if (generator() % 8 == 0) probability = 65535;
            bit = generator() % 65536 < probability;
        }
        Bytes stream;
        Encoder encoder(stream);
        for (const auto& [probability, bit] : bits) (void)encoder.code(probability, bit);
        encoder.finish();
        Decoder decoder(stream);
        for (const auto& [probability, bit] : bits) ASSERT_EQ(decoder.code(probability), bit);
        EXPECT_TRUE(decoder.at_end());
        EXPECT_FALSE(decoder.exhausted());
    }
}

TEST(RangeCoder, ReadsNoFurtherThanItsWindowPastTheEnd) {
    Decoder decoder({});
    int bits = 0;
    while (!decoder.exhausted() && bits < 1000) {
        (void)decoder.code(32768);
        ++bits;
    }
    EXPECT_LE(bits, 40);
}

TEST(ContextPredictor, LearnsWhatRepeats) {
    Bytes stream;
    Encoder encoder(stream);
    Predictor<2> predictor({1, 2}, 1);
    for (std::uint32_t i = 0; i < 8000; ++i)
        (void)predictor.code(encoder, {0, i % 2}, 0, i % 2 == 1);
    encoder.finish();
    EXPECT_LT(stream.size(), 40U);  // of 1,000 bytes
}

// ---- Matrices

struct Problem {
    Grouping grouping;
    std::vector<float> values;
    Bytes codes;
    std::uint64_t nonzeros = 0;
};

/// One in `one_in` is kept.
Problem make_problem(std::vector<std::uint64_t> shape, std::size_t entries, unsigned one_in) {
    std::mt19937 generator(static_cast<unsigned>(shape[0] + entries));
    Problem problem{grouping_of(shape), {}, {}, 0};
    for (std::size_t i = 0; i < entries; ++i) {
        problem.values.push_back(static_cast<float>(i) - static_cast<float>(entries) / 2);
    }
    problem.codes.resize(problem.grouping.rows * problem.grouping.cols);
    for (auto& code : problem.codes) {
        if (entries == 0 || generator() % one_in != 0) continue;
        code = static_cast<std::uint8_t>(1 + generator() % entries);
        ++problem.nonzeros;
    }
    return problem;
}

Result decode(const Problem& problem, std::span<const std::uint8_t> stream, Bytes& codes) {
    codes.assign(problem.codes.size(), 0);
    return decode_matrix(stream, problem.grouping, problem.values, problem.nonzeros, codes);
}

TEST(ContextMatrix, RoundTripsEveryShapeAndCodebook) {
    const std::vector<std::vector<std::uint64_t>> shapes = {
        {1},      {300},     {0, 5},       {5, 0},          {7, 1},      {1, 90},
        {30, 40}, {4, 3, 5}, {8, 4, 3, 3}, {2, 3, 2, 2, 3}, {3, 2, 0, 3}};
    for (const auto& shape : shapes) {
        for (const std::size_t entries : {0U, 1U, 2U, 3U, 15U, 255U}) {
            for (const unsigned one_in : {1U, 9U}) {
                Problem problem = make_problem(shape, entries, one_in);
                const Bytes stream = encode_matrix(problem.grouping, problem.values, problem.codes);
                Bytes codes;
                const Result result = decode(problem, stream, codes);
                EXPECT_TRUE(result.ok()) << shape[0] << ' ' << entries;
                EXPECT_EQ(codes, problem.codes) << shape[0] << ' ' << entries;
            }
        }
    }
}

TEST(ContextMatrix, WhatFollowsTheLastKeptWeightTakesNothing) {
    Problem problem = make_problem({2, 100000}, 1, 1);
    std::fill(problem.codes.begin() + 1, problem.codes.end(), std::uint8_t{0});
    problem.nonzeros = 1;
    EXPECT_LE(encode_matrix(problem.grouping, problem.values, problem.codes).size(), 3U);
}

TEST(ContextMatrix, UsesThatRowsAndColumnsDiffer) {
    Problem problem = make_problem({64, 64}, 3, 1);
    for (std::size_t i = 0; i < problem.codes.size(); ++i) {
        const bool kept = (i / 64) % 4 == 0 && (i % 64) % 4 == 0;
        problem.codes[i] = kept ? std::uint8_t{2} : std::uint8_t{0};
    }
    const std::size_t bytes = encode_matrix(problem.grouping, problem.values, problem.codes).size();
    EXPECT_LT(bytes, 100U);  // the entropy of places alone is 172
}

TEST(ContextMatrix, NamesAStreamThatEndsTooSoonOrGoesOn) {
    Problem problem = make_problem({40, 50}, 7, 3);
    Bytes stream = encode_matrix(problem.grouping, problem.values, problem.codes);
    Bytes codes;
    EXPECT_EQ(decode(problem, std::span(stream).first(stream.size() / 2), codes).status,
              Status::truncated);
    stream.insert(stream.end(), 8, 0);
    EXPECT_EQ(decode(problem, stream, codes).status, Status::trailing_bytes);
}

TEST(ContextMatrix, AnyBytesGiveCodesThatHaveValuesOrAnError) {
    std::mt19937 generator(5);
    Problem problem = make_problem({20, 3, 3, 3}, 5, 4);
    for (int i = 0; i < 300; ++i) {
        Bytes stream(generator() % 100);
        for (auto& byte : stream) byte = static_cast<std::uint8_t>(generator());
        Bytes codes;
        const Result result = decode(problem, stream, codes);
        EXPECT_LE(*std::max_element(codes.begin(), codes.end()), 5);
        if (!result.ok()) continue;
        const auto zeros = std::count(codes.begin(), codes.end(), 0);
        EXPECT_EQ(codes.size() - static_cast<std::size_t>(zeros), problem.nonzeros);
    }
}

}  // namespace
}  // namespace tersor::contexts
