#include "tersor/spmm.hpp"

#include <cmath>
#include <stdexcept>

#include "isa_test.hpp"
#include "spmm_problem.hpp"

namespace tersor {
namespace {

using test::IsaTest;
using test::make_problem;
using test::Problem;
using test::random_x;

/// |y - y_ref| <= c(n) * eps * sum |w||x| with the c(n) of docs/kernels.md.
void expect_contract(const Problem& p, std::span<const float> x, std::size_t batch,
                     std::span<const float> bias, std::span<const float> y) {
    for (std::size_t n = 0; n < batch; ++n) {
        for (std::size_t r = 0; r < p.rows; ++r) {
            double sum = bias.empty() ? 0.0 : double{bias[r]};
            double magnitude = std::abs(sum);
            double terms = 0.0;
            for (std::size_t k = 0; k < p.cols; ++k) {
                const double product = double{p.dense[r * p.cols + k]} * x[n * p.cols + k];
                sum += product;
                magnitude += std::abs(product);
                terms += product != 0.0 ? 1.0 : 0.0;
            }
            const double c = 4.0 + std::min(terms, 256.0) / 2.0 + terms / 32.0;
            ASSERT_NEAR(y[n * p.rows + r], sum, c * 0x1p-23 * magnitude) << r;
        }
    }
}

class SpmmTest : public IsaTest {};

TEST_P(SpmmTest, MeetsTheContract) {
    unsigned seed = 0;
    for (const auto& [rows, cols] :
         {std::pair{1U, 1U}, {3U, 17U}, {65U, 300U}, {200U, 784U}, {10U, 1U}, {2U, 70000U}}) {
        for (const double density : {0.0, 0.05, 0.5, 1.0}) {
            for (const int values : {1, 15, 16, 255}) {
                const Problem p = make_problem(rows, cols, density, values, ++seed);
                PackedMatrix packed;
                ASSERT_TRUE(spmm::pack(p.csr, p.codebook, packed).ok());
                EXPECT_EQ(packed.isa(), GetParam());
                std::vector<float> unpacked(p.dense.size());
                packed.unpack(unpacked);
                ASSERT_EQ(unpacked, p.dense);
                for (const std::size_t batch : {0, 1, 3, 5, 33}) {
                    if (batch > 5 && cols > 1000) continue;
                    const auto x = random_x(batch * cols, seed);
                    const auto bias = random_x(batch % 2 == 0 ? 0 : rows, seed);
                    for (const int threads : {1, 2}) {
                        std::vector<float> y(batch * rows, -1.0F);
                        spmm::multiply(packed, x, batch, bias, y, Precision::highest, threads);
                        expect_contract(p, x, batch, bias, y);
                    }
                }
            }
        }
    }
}

// Tiles of rows, blocks of columns of every width, panels of every number of lanes.
TEST_P(SpmmTest, BatchesOfEveryWidth) {
    unsigned seed = 100;
    for (const double density : {0.02, 0.1, 0.7}) {
        const Problem p = make_problem(1030, 300, density, 15, ++seed);
        PackedMatrix packed;
        ASSERT_TRUE(spmm::pack(p.csr, p.codebook, packed, Regime::batch).ok());
        const std::size_t before = packed.nbytes();
        for (const std::size_t batch : {4, 30, 85}) {
            SCOPED_TRACE("batch " + std::to_string(batch));
            const auto x = random_x(batch * p.cols, seed);
            const auto bias = random_x(p.rows, seed);
            std::vector<float> y(batch * p.rows, -1.0F);
            spmm::multiply(packed, x, batch, bias, y, Precision::highest, 3);
            expect_contract(p, x, batch, bias, y);
        }
        EXPECT_GT(packed.nbytes(), before);  // the second layout is counted
    }
}

TEST_P(SpmmTest, PlainValues) {
    const std::vector<std::uint8_t> codes = {1, 0, 0, 0, 0, 0, 1, 1, 0};
    const RelativeCsr matrix = csr::encode(codes, 3, 3, 2, true);
    PackedMatrix packed;
    ASSERT_TRUE(spmm::pack_values(matrix, std::vector<float>{2.0F, 3.0F, 4.0F}, packed).ok());
    std::vector<float> y(3);
    spmm::multiply(packed, std::vector<float>{1.0F, 10.0F, 100.0F}, 1, {}, y);
    EXPECT_EQ(y, (std::vector<float>{2.0F, 0.0F, 43.0F}));
    EXPECT_EQ(spmm::pack_values(matrix, std::vector<float>{2.0F}, packed).status,
              Status::size_mismatch);
}

TERSOR_ON_EVERY_ISA(SpmmTest);

TEST(SpmmPack, NamesTheFault) {
    const RelativeCsr matrix = csr::encode(std::vector<std::uint8_t>{1, 0, 5, 0}, 2, 2, 2);
    PackedMatrix packed;
    const Result past = spmm::pack(matrix, std::vector<float>{0.0F, 1.0F}, packed);
    EXPECT_EQ(past.status, Status::code_past_codebook);
    EXPECT_EQ(past.count, 1U);
    std::vector<float> codebook(6, 1.0F);
    codebook[0] = 0.0F;
    codebook[4] = std::numeric_limits<float>::infinity();
    EXPECT_EQ(spmm::pack(matrix, codebook, packed).status, Status::not_finite);
    codebook[0] = 1.0F;
    EXPECT_THROW((void)spmm::pack(matrix, codebook, packed), std::invalid_argument);
    RelativeCsr broken = matrix;
    broken.gaps[0] = 3;
    EXPECT_EQ(spmm::pack(broken, codebook, packed).status, Status::gap_past_end);
}

TEST(SpmmMultiply, RefusesWrongSizes) {
    const Problem p = make_problem(4, 5, 0.5, 3, 1);
    PackedMatrix packed;
    ASSERT_TRUE(spmm::pack(p.csr, p.codebook, packed).ok());
    std::vector<float> x(5), y(4), bias(3);
    EXPECT_THROW(spmm::multiply(packed, std::span(x).first(4), 1, {}, y), std::invalid_argument);
    EXPECT_THROW(spmm::multiply(packed, x, 1, bias, y), std::invalid_argument);
    EXPECT_THROW(spmm::multiply(packed, x, 2, {}, y), std::invalid_argument);
}

}  // namespace
}  // namespace tersor
