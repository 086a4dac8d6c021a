// Matrices of many columns, of which most blocks hold nothing.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "isa_test.hpp"
#include "spmm_problem.hpp"
#include "tersor/spmm.hpp"

namespace tersor {
namespace {

using test::Problem;

/// Entries in the first, fourth and last of six blocks of 65,536 columns, the last not whole.
Problem gaps_problem(std::uint32_t rows) {
    constexpr std::uint32_t block = 65536;
    const std::uint32_t cols = 6 * block - 5;
    Problem p{rows, cols, {}, {0.0F, 0.5F, -2.0F, 3.0F}, {}};
    std::vector<std::uint8_t> codes(std::size_t{rows} * cols);
    for (std::uint32_t r = 0; r < rows; ++r) {
        for (std::uint32_t i = 0; i < 40; ++i) {
            for (const std::uint32_t first : {0 * block, 3 * block, 5 * block}) {
                const std::uint32_t column = first + (i * 1567 + r * 11) % (block - 5);
                codes[std::size_t{r} * cols + column] = static_cast<std::uint8_t>(1 + i % 3);
            }
        }
    }
    for (const std::uint8_t code : codes) p.dense.push_back(p.codebook[code]);
    p.csr = csr::encode(codes, rows, cols, 8);
    return p;
}

class Csr16 : public test::IsaTest {};
TERSOR_ON_EVERY_ISA(Csr16);

TEST_P(Csr16, BlocksWithoutEntriesAreNotThere) {
    const Problem p = gaps_problem(5);
    const auto x = test::random_x(std::size_t{33} * p.cols, 1);
    std::vector<float> plain;  // the same weights, each alone
    RelativeCsr mask = p.csr;
    for (std::uint8_t& code : mask.codes) {
        if (code == 0) continue;
        plain.push_back(p.codebook[code]);
        code = 1;
    }
    PackedMatrix shared, values;
    ASSERT_TRUE(spmm::pack(p.csr, p.codebook, shared, LayoutHint::batch).ok());
    ASSERT_TRUE(spmm::pack_values(mask, plain, values).ok());
    for (const PackedMatrix* packed : {&shared, &values}) {
        std::vector<float> dense(p.dense.size());
        packed->unpack(dense);
        EXPECT_EQ(dense, p.dense);
        std::vector<float> back(p.dense.size());
        packed->transposed().unpack(back);
        for (std::size_t i = 0; i < back.size(); ++i) {
            ASSERT_EQ(back[i], p.dense[i % p.rows * p.cols + i / p.rows]) << i;
        }
        for (const std::size_t batch : {1, 33}) {
            std::vector<float> y(batch * p.rows);
            spmm::multiply(*packed, std::span(x).first(batch * p.cols), batch, {}, y,
                           Precision::highest);
            test::expect_contract(p, x, batch, {}, y);
        }
    }
}

TEST_P(Csr16, WhatIsNotFiniteIsSeenInEveryBlock) {
    const Problem p = gaps_problem(3);
    PackedMatrix packed;
    ASSERT_TRUE(spmm::pack(p.csr, p.codebook, packed, LayoutHint::batch).ok());
    for (const std::size_t column : {std::size_t{70000}, std::size_t{3 * 65536 + 1}}) {
        auto x = test::random_x(p.cols, 2);
        x[column] = std::numeric_limits<float>::infinity();
        std::vector<float> y(p.rows);
        spmm::multiply(packed, x, 1, {}, y, Precision::highest);
        for (std::size_t r = 0; r < p.rows; ++r) {
            EXPECT_EQ(std::isnan(y[r]), p.dense[r * p.cols + column] == 0.0F) << column << ' ' << r;
        }
    }
}

TEST_P(Csr16, GradientsReadEveryBlock) {
    const Problem p = gaps_problem(3);
    PackedMatrix packed;
    ASSERT_TRUE(spmm::pack(p.csr, p.codebook, packed, LayoutHint::batch).ok());
    const auto x = test::random_x(p.cols, 3);
    const std::vector<float> gradient = {1.0F, -2.0F, 0.5F};
    std::vector<float> sums(packed.codebook_size());
    spmm::sum_by_code(packed, x, gradient, 1, 0, 3, sums);
    std::vector<double> expected(sums.size());
    for (std::size_t i = 0; i < p.dense.size(); ++i) {
        for (std::size_t c = 1; c < expected.size(); ++c) {
            if (p.dense[i] != p.codebook[c]) continue;
            expected[c] += double{gradient[i / p.cols]} * x[i % p.cols];
        }
    }
    for (std::size_t c = 0; c < sums.size(); ++c) EXPECT_NEAR(sums[c], expected[c], 1e-3) << c;
}

TEST_P(Csr16, AMatrixWithoutEntriesTakesNothingForItsColumns) {
    RelativeCsr csr{20000, UINT32_MAX, 8, false, {}, {}, std::vector<std::uint32_t>(20000)};
    PackedMatrix packed;
    ASSERT_TRUE(spmm::pack(csr, std::vector<float>{0, 1}, packed, LayoutHint::batch).ok());
    EXPECT_LT(packed.nbytes(), std::size_t{1} << 20);
    csr.cols = 1000;
    ASSERT_TRUE(spmm::pack(csr, std::vector<float>{0, 1}, packed, LayoutHint::batch).ok());
    EXPECT_LT(packed.nbytes(), std::size_t{1} << 14);
    const auto x = test::random_x(2000, 1);
    std::vector<float> y(2 * csr.rows, 7.0F);
    spmm::multiply(packed, x, 2, {}, y);
    EXPECT_EQ(y, std::vector<float>(2 * csr.rows));
}

}  // namespace
}  // namespace tersor
