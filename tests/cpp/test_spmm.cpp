#include "tersor/spmm.hpp"

#include <algorithm>
#include <stdexcept>
#include <string>

#include "isa_test.hpp"
#include "spmm_problem.hpp"

namespace tersor {
namespace {

using test::expect_contract;
using test::IsaTest;
using test::make_problem;
using test::Problem;
using test::random_x;

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
        ASSERT_TRUE(spmm::pack(p.csr, p.codebook, packed, LayoutHint::batch).ok());
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

// The bound is relative to each row's own terms, whatever the activations and the weights are.
TEST_P(SpmmTest, MeetsTheContractForEveryKindOfActivation) {
    constexpr std::size_t cols = 500;
    std::vector<float> many = random_x(200, 7);
    many[0] = 0.0F;
    const std::vector<std::vector<float>> codebooks = {
        {0.0F, -1.5F, -0.5F, -0.2F, 0.2F, 0.5F, 1.5F},
        {0.0F, 1.0F, 1e-3F, -1e-3F},
        {0.0F, 1.0F, 1e-9F, -1e-9F},
        {0.0F, 3e-38F, -2e-38F},
        {0.0F, 1e30F, -2e30F},
        many};
    for (const std::vector<float>& codebook : codebooks) {
        for (const double density : {0.01, 0.3}) {
            const Problem p = make_problem(70, cols, density, codebook, 3);
            PackedMatrix packed;
            ASSERT_TRUE(spmm::pack(p.csr, p.codebook, packed).ok());
            const auto bias = random_x(p.rows, 5);
            for (const auto& kind : test::kinds_of_activation(cols)) {
                SCOPED_TRACE(std::string(kind.name) + ", largest weight " +
                             std::to_string(codebook[1]));
                std::vector<float> x = random_x(cols, 4);
                for (std::size_t k = 0; k < cols; ++k) x[k] = kind.make(x[k], k);
                const float largest = *std::max_element(x.begin(), x.end());
                if (codebook[1] > 1.0F && largest > 1e30F) continue;  // fp32 would overflow
                std::vector<float> y(p.rows, -1.0F);
                spmm::multiply(packed, x, 1, {}, y, Precision::highest, 2);
                expect_contract(p, x, 1, {}, y);
                spmm::multiply(packed, x, 1, bias, y, Precision::highest);
                expect_contract(p, x, 1, bias, y);
            }
        }
    }
}

// The documented rule: what the first layout is for, by batch, class, density and codebook.
TEST_P(SpmmTest, TheLayoutHintFollowsTheUse) {
    const bool fixed = GetParam() != Isa::scalar;
    const auto of = [](const Problem& p, std::size_t batch, Precision precision) {
        return spmm::layout_hint_for(p.csr, p.codebook.size(), {batch, precision});
    };
    const Problem p = make_problem(64, 256, 0.1, 15, 1);
    for (const Precision precision : {Precision::high, Precision::medium, Precision::low}) {
        EXPECT_EQ(of(p, 1, precision), fixed ? LayoutHint::vector : LayoutHint::batch);
    }
    EXPECT_EQ(of(p, 64, Precision::high), LayoutHint::batch);
    EXPECT_EQ(of(p, 64, Precision::highest), LayoutHint::batch);
    EXPECT_EQ(of(p, 64, Precision::low), fixed ? LayoutHint::vector : LayoutHint::batch);
    EXPECT_EQ(of(make_problem(64, 256, 0.001, 15, 1), 1, Precision::high), LayoutHint::batch);
    EXPECT_EQ(of(make_problem(64, 256, 0.1, 200, 1), 1, Precision::high),
              GetParam() == Isa::avx512 || GetParam() == Isa::amx ? LayoutHint::vector
                                                                  : LayoutHint::batch);
    // Tiles stand beside the layout for vectors.
    EXPECT_EQ(of(make_problem(64, 256, 0.3, 15, 1), 64, Precision::high),
              GetParam() == Isa::amx ? LayoutHint::vector : LayoutHint::batch);
}

// A batch that panels take whole needs no other layout beside csr16.
TEST_P(SpmmTest, BatchesMakeNoLayoutForVectors) {
    const Problem p = make_problem(64, 256, 0.1, 15, 1);
    PackedMatrix packed;
    ASSERT_TRUE(spmm::pack(p.csr, p.codebook, packed, LayoutHint::batch).ok());
    const auto x = random_x(64 * p.cols, 2);
    std::vector<float> y(64 * p.rows);
    spmm::multiply(packed, x, 64, {}, y, Precision::high);
    const std::size_t before = packed.nbytes();
    spmm::multiply(packed, x, 64, {}, y, Precision::highest);
    EXPECT_EQ(packed.nbytes(), before);
    spmm::multiply(packed, std::span(x).first(p.cols), 1, {}, std::span(y).first(p.rows),
                   Precision::high);
    EXPECT_EQ(packed.nbytes() > before, GetParam() != Isa::scalar);
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
    codebook = {0.0F, 1.0F, 2.0F, 3.0F, 4.0F, 5.0F};
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
