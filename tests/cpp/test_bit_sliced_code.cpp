#include "huffman/bit_sliced_code.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "huffman_problem.hpp"

namespace tersor {
namespace {

using namespace test;

TEST(BitSlicedCode, AreNearlyAsSmallAsHuffmanCodes) {
    for (unsigned seed = 0; seed < 30; ++seed) {
        const auto counts = huffman::histogram(random_symbols(50000, 0.01 + 0.025 * seed, seed));
        const huffman::BitSlicedCode code = huffman::build_bit_sliced_code(counts);
        const auto optimal = static_cast<double>(huffman_bits(counts));
        const auto bits = static_cast<double>(huffman::coded_bits(code, counts));
        EXPECT_GE(bits, optimal);
        const auto distinct =
            counts.size() - static_cast<std::size_t>(std::count(counts.begin(), counts.end(), 0U));
        EXPECT_LE(bits, (distinct <= 64 ? 1.01 : 1.015) * optimal) << distinct;
    }
    const auto flat = huffman::histogram(flat_symbols(1 << 18, 256, 1));
    EXPECT_LE(static_cast<double>(huffman::coded_bits(huffman::build_bit_sliced_code(flat), flat)),
              1.005 * static_cast<double>(huffman_bits(flat)));
}

TEST(BitSlicedCode, StayNearHuffmanCodesOverAllSymbols) {
    const auto excess = [](const auto& weight) {
        huffman::Histogram counts{};
        for (std::size_t s = 0; s < counts.size(); ++s) {
            counts[s] = static_cast<std::uint64_t>(1e7 * weight(static_cast<double>(s)));
        }
        const auto bits = static_cast<double>(
            huffman::coded_bits(huffman::build_bit_sliced_code(counts), counts));
        return bits / static_cast<double>(huffman_bits(counts)) - 1.0;
    };
    for (const double deviation : {10.0, 20.0, 30.0, 40.0, 70.0}) {
        const auto normal = [&](double s) {
            return std::exp(-std::pow((s - 127.5) / deviation, 2) / 2);
        };
        EXPECT_LE(excess(normal), 0.005) << deviation;
    }
    // The worst that is known: no word is longer than the bits of its stages.
    for (const double exponent : {0.5, 0.7, 1.0, 1.3, 1.6, 2.0}) {
        const auto power = [&](double s) { return std::pow(s + 1, -exponent); };
        EXPECT_LE(excess(power), 0.04) << exponent;
    }
}

TEST(BitSlicedCode, CodesAreReadBackAsTheyWereWritten) {
    for (unsigned seed = 0; seed < 30; ++seed) {
        const auto counts = huffman::histogram(random_symbols(3000, 0.01 + 0.03 * seed, seed));
        const huffman::BitSlicedCode code = huffman::build_bit_sliced_code(counts);
        Bytes bytes;
        huffman::append_bit_sliced_code(code, bytes);
        huffman::BitSlicedCode back;
        const Result result = huffman::read_bit_sliced_code(bytes, back);
        ASSERT_TRUE(result.ok());
        EXPECT_EQ(result.count, bytes.size());
        EXPECT_EQ(huffman::coded_bits(back, counts), huffman::coded_bits(code, counts));
        Bytes again;
        huffman::append_bit_sliced_code(back, again);
        EXPECT_EQ(again, bytes);
        for (std::size_t size = 0; size < bytes.size(); ++size) {
            EXPECT_FALSE(huffman::read_bit_sliced_code(std::span(bytes).first(size), back).ok());
        }
    }
}

}  // namespace
}  // namespace tersor
