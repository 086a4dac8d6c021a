#include "tersor/rows.hpp"

#include <bit>
#include <cmath>
#include <limits>
#include <random>
#include <stdexcept>

#include "guarded.hpp"
#include "isa_test.hpp"

namespace tersor {
namespace {

using test::IsaTest;

/// A matrix, and what each of its weights is: the reference of every look-up.
struct Problem {
    RelativeCsr csr;
    std::vector<float> codebook;
    std::vector<float> factors;
    std::vector<float> dense;
};

Problem make_problem(std::uint32_t rows, std::uint32_t cols, std::size_t values, bool scaled,
                     double density, bool flat) {
    std::mt19937 generator(rows + 7 * cols + 31 * static_cast<unsigned>(values));
    std::normal_distribution<float> normal;
    Problem made;
    made.codebook.push_back(0.0F);
    while (made.codebook.size() < values) made.codebook.push_back(normal(generator));
    std::vector<std::uint8_t> codes(std::size_t{rows} * cols);
    for (auto& code : codes) {
        const bool kept = values > 1 && static_cast<double>(generator() % 1000) < 1000 * density;
        code = kept ? static_cast<std::uint8_t>(1 + generator() % (values - 1)) : std::uint8_t{0};
    }
    for (std::uint32_t r = 0; scaled && r < rows; ++r) made.factors.push_back(normal(generator));
    for (std::size_t i = 0; i < codes.size(); ++i) {
        const float factor = scaled ? made.factors[i / cols] : 1.0F;
        made.dense.push_back(factor * made.codebook[codes[i]]);
    }
    made.csr = csr::encode(codes, rows, cols, 4, flat);
    return made;
}

class RowsTest : public IsaTest {};

TEST_P(RowsTest, LooksUpWhatTheDenseMatrixHolds) {
    for (const auto& [rows, cols] :
         {std::pair{1U, 1U}, {5U, 7U}, {9U, 64U}, {40U, 130U}, {3U, 384U}}) {
        for (const std::size_t values :
             {1U, 2U, 3U, 4U, 8U, 16U, 40U, 64U, 65U, 128U, 129U, 256U}) {
            for (const bool scaled : {false, true}) {
                const Problem problem =
                    make_problem(rows, cols, values, scaled, values % 2 == 0 ? 0.4 : 1.0, scaled);
                PackedRows packed;
                ASSERT_TRUE(
                    rows::pack(problem.csr, problem.codebook, packed, problem.factors).ok());
                EXPECT_EQ(packed.bits(), std::max(1, static_cast<int>(std::bit_width(values - 1))));
                std::vector<std::int64_t> indices;
                for (std::size_t i = 0; i < 70; ++i) {
                    indices.push_back(static_cast<std::int64_t>(i * 7919 % rows));
                }
                for (const int threads : {1, 3}) {
                    std::vector<float> out(indices.size() * cols, -1.0F);
                    EXPECT_EQ(rows::look_up(packed, indices, std::span(out), threads),
                              std::nullopt);
                    for (std::size_t i = 0; i < out.size(); ++i) {
                        const auto row = static_cast<std::size_t>(indices[i / cols]);
                        ASSERT_EQ(out[i], problem.dense[row * cols + i % cols]);
                    }
                }
            }
        }
    }
}

TEST_P(RowsTest, RoundsToTheNearestBfloat16) {
    const Problem problem = make_problem(6, 50, 200, true, 1.0, false);
    PackedRows packed;
    ASSERT_TRUE(rows::pack(problem.csr, problem.codebook, packed, problem.factors).ok());
    const std::vector<std::int64_t> indices = {5, 0, 3};
    std::vector<BFloat16> out(150);
    EXPECT_EQ(rows::look_up(packed, indices, std::span(out)), std::nullopt);
    for (std::size_t i = 0; i < out.size(); ++i) {
        const float exact = problem.dense[static_cast<std::size_t>(indices[i / 50]) * 50 + i % 50];
        const auto value = std::bit_cast<float>(std::uint32_t{out[i].bits} << 16);
        const auto neighbour = [&](int step) {
            const int bits = int{out[i].bits} + step;
            return std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16);
        };
        const float error = std::abs(value - exact);
        EXPECT_LE(error, std::abs(neighbour(1) - exact));
        if (exact != 0.0F) {
            EXPECT_LE(error, std::abs(neighbour(-1) - exact));
        }
    }
}

TEST_P(RowsTest, NamesTheFirstIndexThatIsOutOfRangeAndWritesNothing) {
    const Problem problem = make_problem(4, 9, 5, false, 1.0, false);
    PackedRows packed;
    ASSERT_TRUE(rows::pack(problem.csr, problem.codebook, packed).ok());
    for (const std::int64_t wrong : {std::int64_t{4}, std::int64_t{-1}, INT64_MAX, INT64_MIN}) {
        const std::vector<std::int64_t> indices = {0, 3, wrong, 17};
        std::vector<float> out(36, 7.0F);
        EXPECT_EQ(rows::look_up(packed, indices, std::span(out)), std::optional<std::size_t>(2));
        EXPECT_EQ(out, std::vector<float>(36, 7.0F));
    }
    std::vector<float> small(8);
    EXPECT_THROW((void)rows::look_up(packed, std::vector<std::int64_t>{0}, std::span(small)),
                 std::invalid_argument);
}

TEST_P(RowsTest, OtherValuesShareTheCodes) {
    const Problem problem = make_problem(20, 33, 20, true, 0.7, false);
    PackedRows packed;
    ASSERT_TRUE(rows::pack(problem.csr, problem.codebook, packed, problem.factors).ok());
    std::vector<float> doubled = problem.codebook;
    for (float& value : doubled) value *= 2;
    const PackedRows other = packed.with_codebook(doubled);
    const std::vector<std::int64_t> indices = {19, 2};
    std::vector<float> before(66), after(66);
    EXPECT_EQ(rows::look_up(packed, indices, std::span(before)), std::nullopt);
    EXPECT_EQ(rows::look_up(other, indices, std::span(after)), std::nullopt);
    for (std::size_t i = 0; i < before.size(); ++i) EXPECT_EQ(after[i], 2 * before[i]);
    EXPECT_THROW((void)packed.with_codebook(std::vector<float>(19)), std::invalid_argument);
    doubled[3] = std::numeric_limits<float>::infinity();
    EXPECT_THROW((void)packed.with_codebook(doubled), std::invalid_argument);
}

TEST_P(RowsTest, RefusesMalformedEntries) {
    const Problem good = make_problem(8, 40, 10, false, 0.5, false);
    PackedRows packed;
    Problem bad = good;
    bad.csr.codes[3] = 200;
    EXPECT_EQ(rows::pack(bad.csr, bad.codebook, packed).status, Status::code_past_codebook);
    EXPECT_EQ(rows::pack(bad.csr, bad.codebook, packed).count, 3U);
    bad = good;
    bad.csr.gaps[0] = 255;
    EXPECT_FALSE(rows::pack(bad.csr, bad.codebook, packed).ok());
    bad = good;
    bad.csr.row_lengths.pop_back();
    EXPECT_FALSE(rows::pack(bad.csr, bad.codebook, packed).ok());
    bad = good;
    bad.codebook[2] = std::numeric_limits<float>::quiet_NaN();
    EXPECT_EQ(rows::pack(bad.csr, bad.codebook, packed).status, Status::not_finite);
    bad = good;
    bad.csr.rows = 0xFFFFFFFFU;
    bad.csr.cols = 0xFFFFFFFFU;
    EXPECT_FALSE(rows::pack(bad.csr, bad.codebook, packed).ok());
    EXPECT_THROW((void)rows::pack(good.csr, std::vector<float>{1.0F}, packed),
                 std::invalid_argument);
    EXPECT_THROW((void)rows::pack(good.csr, good.codebook, packed, std::vector<float>(3)),
                 std::invalid_argument);
    EXPECT_EQ(packed.rows(), 0U);  // nothing was packed
}

TERSOR_ON_EVERY_ISA(RowsTest);

}  // namespace
}  // namespace tersor
