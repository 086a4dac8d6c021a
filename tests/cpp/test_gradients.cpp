// What training needs beside products, against double precision.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <stdexcept>
#include <string>

#include "isa_test.hpp"
#include "spmm_problem.hpp"
#include "tersor/spmm.hpp"

namespace tersor {
namespace {

using test::expect_contract;
using test::IsaTest;
using test::make_problem;
using test::Problem;
using test::random_x;

class GradientsTest : public IsaTest {};

Problem transpose(const Problem& p) {
    Problem t{p.cols, p.rows, std::vector<float>(p.dense.size()), p.codebook, {}};
    for (std::size_t r = 0; r < p.rows; ++r) {
        for (std::size_t k = 0; k < p.cols; ++k) t.dense[k * p.rows + r] = p.dense[r * p.cols + k];
    }
    return t;
}

TEST_P(GradientsTest, TheTransposedMatrixMultiplies) {
    for (const auto& [rows, cols] : {std::pair{60U, 90U}, {1U, 300U}, {70000U, 3U}}) {
        for (const LayoutHint layout_hint : {LayoutHint::vector, LayoutHint::batch}) {
            const Problem p = make_problem(rows, cols, 0.2, 15, 3);
            PackedMatrix packed;
            ASSERT_TRUE(spmm::pack(p.csr, p.codebook, packed, layout_hint).ok());
            const std::size_t before = packed.nbytes();
            const PackedMatrix& transposed = packed.transposed();
            EXPECT_EQ(packed.nbytes(), before + transposed.nbytes());
            EXPECT_EQ(&packed.transposed(), &transposed);
            const Problem t = transpose(p);
            std::vector<float> unpacked(t.dense.size());
            transposed.unpack(unpacked);
            ASSERT_EQ(unpacked, t.dense);
            for (const std::size_t batch : {1, 12}) {
                const auto x = random_x(batch * rows, 1);
                std::vector<float> y(batch * cols);
                spmm::multiply(transposed, x, batch, {}, y, Precision::highest, 2);
                expect_contract(t, x, batch, {}, y);
            }
        }
    }
}

TEST_P(GradientsTest, PlainWeightsTransposeToo) {
    const RelativeCsr csr = csr::encode(std::vector<std::uint8_t>{1, 0, 1, 0, 1, 1}, 2, 3, 4);
    PackedMatrix packed;
    ASSERT_TRUE(spmm::pack_values(csr, std::vector<float>{2, 3, 5, 7}, packed).ok());
    std::vector<float> unpacked(6);
    packed.transposed().unpack(unpacked);
    EXPECT_EQ(unpacked, (std::vector<float>{2, 0, 0, 5, 3, 7}));
    EXPECT_EQ(packed.codebook_size(), 0U);
    EXPECT_THROW(static_cast<void>(packed.with_codebook(std::vector<float>{})),
                 std::invalid_argument);
}

TEST_P(GradientsTest, OtherValuesForTheSameCodes) {
    for (const int values : {15, 200}) {
        Problem p = make_problem(64, 200, 0.3, values, 4);
        PackedMatrix packed;
        ASSERT_TRUE(spmm::pack(p.csr, p.codebook, packed).ok());
        static_cast<void>(packed.transposed());
        std::vector<float> codebook = random_x(p.codebook.size(), 5);
        codebook[0] = 0.0F;
        const PackedMatrix other = packed.with_codebook(codebook);
        const Problem changed = make_problem(64, 200, 0.3, codebook, 4);
        ASSERT_EQ(changed.csr.codes, p.csr.codes);
        const Problem changed_transposed = transpose(changed);
        for (const std::size_t batch : {1, 20}) {
            const auto x = random_x(batch * p.cols, 1);
            std::vector<float> y(batch * p.rows);
            spmm::multiply(other, x, batch, {}, y, Precision::highest);
            expect_contract(changed, x, batch, {}, y);
            spmm::multiply(packed, x, batch, {}, y, Precision::highest);
            expect_contract(p, x, batch, {}, y);
            const auto g = random_x(batch * p.rows, 2);
            std::vector<float> back(batch * p.cols);
            spmm::multiply(other.transposed(), g, batch, {}, back, Precision::highest);
            expect_contract(changed_transposed, g, batch, {}, back);
        }
        codebook[1] = std::numeric_limits<float>::infinity();
        EXPECT_THROW(static_cast<void>(packed.with_codebook(codebook)), std::invalid_argument);
        codebook.pop_back();
        EXPECT_THROW(static_cast<void>(packed.with_codebook(codebook)), std::invalid_argument);
    }
}

TEST_P(GradientsTest, SumsByCodeAreThoseOfDoublePrecision) {
    for (const auto& [rows, cols, density] :
         {std::tuple{100U, 300U, 0.2}, {3U, 70000U, 0.01}, {50U, 20U, 0.0}}) {
        for (const int values : {1, 15, 255}) {
            const Problem p = make_problem(rows, cols, density, values, 6);
            std::vector<std::uint8_t> codes(std::size_t{rows} * cols);
            ASSERT_TRUE(csr::decode(p.csr, codes).ok());
            PackedMatrix packed;
            ASSERT_TRUE(spmm::pack(p.csr, p.codebook, packed).ok());
            for (const std::size_t batch : {1, 40}) {
                if (batch > 1 && cols > 1000) continue;
                const std::size_t row_begin = rows / 3;
                const std::size_t count = rows - row_begin - 1;
                const auto x = random_x(batch * cols, 1);
                const auto g = random_x(batch * count, 2);
                std::vector<double> expected(p.codebook.size(), 0.0);
                std::vector<double> magnitudes(p.codebook.size(), 0.0);
                for (std::size_t n = 0; n < batch; ++n) {
                    for (std::size_t r = 0; r < count; ++r) {
                        for (std::size_t k = 0; k < cols; ++k) {
                            const std::uint8_t code = codes[(row_begin + r) * cols + k];
                            if (code == 0) continue;
                            const double term = double{g[n * count + r]} * x[n * cols + k];
                            expected[code] += term;
                            magnitudes[code] += std::abs(term);
                        }
                    }
                }
                for (const int threads : {1, 3}) {
                    std::vector<float> sums(p.codebook.size(), -1.0F);
                    spmm::sum_by_code(packed, x, g, batch, row_begin, count, sums, threads);
                    for (std::size_t c = 0; c < sums.size(); ++c) {
                        // Rounded once per term, and in chains of some hundred additions.
                        ASSERT_NEAR(sums[c], expected[c], 200 * 0x1p-24 * magnitudes[c]) << c;
                    }
                }
            }
        }
    }
}

TEST_P(GradientsTest, WrongSizesAreRefused) {
    const Problem p = make_problem(4, 5, 0.5, 3, 1);
    PackedMatrix packed;
    ASSERT_TRUE(spmm::pack(p.csr, p.codebook, packed).ok());
    const std::vector<float> x(5);
    const std::vector<float> g(4);
    std::vector<float> sums(4);
    EXPECT_NO_THROW(spmm::sum_by_code(packed, x, g, 1, 0, 4, sums));
    EXPECT_THROW(spmm::sum_by_code(packed, x, g, 1, 1, 4, sums), std::invalid_argument);
    EXPECT_THROW(spmm::sum_by_code(packed, g, g, 1, 0, 4, sums), std::invalid_argument);
    EXPECT_THROW(spmm::sum_by_code(packed, x, x, 1, 0, 4, sums), std::invalid_argument);
    EXPECT_THROW(spmm::sum_by_code(packed, x, g, 1, 0, 4, std::span(sums).first(3)),
                 std::invalid_argument);
}

TERSOR_ON_EVERY_ISA(GradientsTest);

}  // namespace
}  // namespace tersor
