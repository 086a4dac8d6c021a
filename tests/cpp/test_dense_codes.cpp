// Dense slices: matrices of which most weights are kept, on every instruction set, against the
// bounds of docs/kernels/ in double precision.
#include <algorithm>
#include <cmath>

#include "isa_test.hpp"
#include "spmm/packed_matrix.hpp"
#include "spmm_problem.hpp"
#include "tersor/spmm.hpp"

namespace tersor {
namespace {

using test::Problem;

PackedMatrix packed(const Problem& p, int threads = 1) {
    PackedMatrix matrix;
    const Result result = spmm::pack(p.csr, p.codebook, matrix, LayoutHint::vector, threads);
    EXPECT_TRUE(result.ok()) << describe(result.status);
    return matrix;
}

bool is_dense(const PackedMatrix& matrix) {
    const spmm::Sell* sell = matrix.layout().lazy_sell.peek();
    return sell != nullptr && sell->shape.dense;
}

double limit_of(Precision precision) {
    return precision == Precision::low      ? 0x1p-6
           : precision == Precision::medium ? 0x1p-13
                                            : 0x1p-18;
}

/// |y - y_ref| <= c_p * max|x| * sum |w|.
void expect_bound(const Problem& p, std::span<const float> x, std::size_t batch,
                  std::span<const float> bias, std::span<const float> y, Precision precision) {
    if (precision == Precision::highest) return test::expect_contract(p, x, batch, bias, y);
    for (std::size_t n = 0; n < batch; ++n) {
        double largest = 0.0;
        for (std::size_t k = 0; k < p.cols; ++k) {
            largest = std::max(largest, std::abs(double{x[n * p.cols + k]}));
        }
        for (std::size_t r = 0; r < p.rows; ++r) {
            double sum = bias.empty() ? 0.0 : double{bias[r]};
            double weights = 0.0;
            for (std::size_t k = 0; k < p.cols; ++k) {
                sum += double{p.dense[r * p.cols + k]} * x[n * p.cols + k];
                weights += std::abs(double{p.dense[r * p.cols + k]});
            }
            const double rounding = 4.0 * 0x1p-23 * std::abs(sum);
            ASSERT_NEAR(y[n * p.rows + r], sum, limit_of(precision) * largest * weights + rounding)
                << r << ' ' << static_cast<int>(precision);
        }
    }
}

/// Products of every class, of several batches, with and without negative activations.
void expect_bounds(const Problem& p, const PackedMatrix& matrix) {
    for (const Precision precision :
         {Precision::highest, Precision::high, Precision::medium, Precision::low}) {
        for (const std::size_t batch : {1U, 5U, 40U}) {
            for (const bool positive : {false, true}) {
                auto x = test::random_x(batch * p.cols, 4);
                if (positive)
                    std::ranges::transform(x, x.begin(), [](float v) { return std::abs(v); });
                const auto bias = test::random_x(p.rows, 5);
                std::vector<float> y(batch * p.rows);
                spmm::multiply(matrix, x, batch, bias, y, precision, 2);
                expect_bound(p, x, batch, bias, y, precision);
            }
        }
    }
}

/// Multiples of a step, in no order: `values` of them on each side of 0.
std::vector<float> multiples(int values, float step, int first = 1) {
    std::vector<float> codebook = {0.0F};
    for (int k = first; k < first + values; ++k) {
        codebook.insert(codebook.begin() + 1 + k % 3 % static_cast<int>(codebook.size()),
                        static_cast<float>(k) * step);
        codebook.push_back(static_cast<float>(-k) * step);
    }
    return codebook;
}

class DenseCodes : public test::IsaTest {
protected:
    /// Whether the level has kernels for dense slices of codes with that many values.
    [[nodiscard]] static bool serves(int values) {
        if (GetParam() == Isa::avx2) return values <= 15;
        return GetParam() == Isa::avx512 || GetParam() == Isa::amx;
    }
    /// And of integers.
    [[nodiscard]] static bool serves_integers() { return GetParam() != Isa::scalar; }
};

TEST_P(DenseCodes, ProductsOfEveryClassKeepTheirBounds) {
    struct Shape {
        std::uint32_t rows, cols;
        double density;
        int values;
    };
    // Rows that leave groups and slices unfilled; columns that leave lines unfilled.
    const Shape shapes[] = {{37, 300, 1.0, 3},  {16, 256, 0.5, 3},   {37, 301, 1.0, 15},
                            {3, 129, 0.6, 15},  {1, 1, 1.0, 15},     {37, 200, 1.0, 60},
                            {21, 65, 0.8, 100}, {21, 130, 0.7, 255}, {5, 3000, 1.0, 7}};
    for (const Shape& shape : shapes) {
        const Problem p =
            test::make_problem(shape.rows, shape.cols, shape.density, shape.values, 9);
        const PackedMatrix matrix = packed(p);
        EXPECT_EQ(is_dense(matrix), serves(shape.values)) << shape.cols;
        expect_bounds(p, matrix);
    }
}

TEST_P(DenseCodes, IntegersKeepTheBoundsOfEveryClass) {
    struct Shape {
        std::uint32_t rows, cols;
        double density;
        int values;
        int first;  // the smallest multiple
    };
    const Shape shapes[] = {{37, 300, 1.0, 63, 1}, {16, 256, 0.5, 8, 1},  {21, 65, 0.8, 127, 1},
                            {1, 1, 1.0, 20, 1},    {5, 3000, 0.9, 40, 9}, {18, 64, 1.0, 100, 28}};
    for (const Shape& shape : shapes) {
        const Problem p = test::make_problem(shape.rows, shape.cols, shape.density,
                                             multiples(shape.values, 0.0173F, shape.first), 9);
        const PackedMatrix matrix = packed(p);
        ASSERT_EQ(is_dense(matrix), serves_integers()) << shape.cols;
        std::vector<float> dense(p.dense.size());
        matrix.unpack(dense);
        EXPECT_EQ(dense, p.dense);
        expect_bounds(p, matrix);
    }
}

TEST_P(DenseCodes, WeightsBeyondTheIntegersKeepTheBounds) {
    auto codebook = multiples(60, 0.0173F);
    for (const float far : {9.2F, -31.5F, 2.41F}) codebook.push_back(far);
    Problem p = test::make_problem(37, 300, 0.9, codebook, 9);
    std::vector<std::uint8_t> codes(p.dense.size());
    for (std::size_t i = 0; i < codes.size(); ++i) {
        // One in 256 is an outlier, and the first and the last weight are.
        const bool far = i % 256 == 7 || i == 0 || i + 1 == codes.size();
        codes[i] = static_cast<std::uint8_t>(far ? 121 + i % 3 : i * i % 121);
        p.dense[i] = codebook[codes[i]];
    }
    p.csr = csr::encode(codes, p.rows, p.cols, 4);
    for (const int threads : {1, 3}) {
        const PackedMatrix matrix = packed(p, threads);
        ASSERT_EQ(is_dense(matrix), serves_integers());
        std::vector<float> dense(p.dense.size());
        matrix.unpack(dense);
        EXPECT_EQ(dense, p.dense);
        const auto bias = test::random_x(p.rows, 5);
        for (const std::size_t batch : {1UL, 5UL, 70UL}) {  // 70: panels and tiles too
            const auto x = test::random_x(batch * p.cols, 4);
            for (const Precision precision :
                 {Precision::highest, Precision::high, Precision::medium, Precision::low}) {
                std::vector<float> y(batch * p.rows);
                spmm::multiply(matrix, x, batch, bias, y, precision, threads);
                expect_bound(p, x, batch, bias, y, precision);
            }
        }
    }
}

TEST_P(DenseCodes, IntegersTakeAByteEach) {
    if (!serves_integers()) GTEST_SKIP() << "no kernels for dense slices";
    const Problem p = test::make_problem(512, 1024, 1.0, multiples(63, 0.5F), 6);
    EXPECT_LT(static_cast<double>(packed(p).nbytes()), 1.03 * 512 * 1024);
}

TEST_P(DenseCodes, TrainedValuesAreNoIntegers) {
    if (!serves_integers()) GTEST_SKIP() << "no kernels for dense slices";
    const Problem p = test::make_problem(40, 200, 1.0, multiples(63, 0.5F), 6);
    const PackedMatrix matrix = packed(p);
    auto trained = p.codebook;
    for (float& v : trained) v *= 1.0F + 0.001F * v;
    Problem other = p;
    for (float& w : other.dense) w *= 1.0F + 0.001F * w;
    const auto x = test::random_x(p.cols, 4);
    std::vector<float> y(p.rows);
    spmm::multiply(matrix.with_codebook(trained), x, 1, {}, y, Precision::high);
    expect_bound(other, x, 1, {}, y, Precision::high);
}

TEST(Integers, AreFoundWhereEveryValueIsAMultiple) {
    const auto found = spmm::find_integers(multiples(63, 0.0173F));
    ASSERT_TRUE(found.has_value());
    EXPECT_NEAR(found->step, 0.0173, 1e-8);
    const std::vector<float> codebook = multiples(63, 0.0173F);
    for (std::size_t c = 1; c < codebook.size(); ++c) {
        EXPECT_NEAR(found->of_code[c] * found->step, codebook[c], 1e-7);
        EXPECT_EQ(found->code_of[static_cast<std::uint8_t>(found->of_code[c])], c);
    }
    // Values from the 40th multiple on.
    const auto large = spmm::find_integers(multiples(20, 0.5F, 40));
    ASSERT_TRUE(large.has_value());
    EXPECT_NEAR(large->step, 0.5, 1e-12);
}

TEST(Integers, AreNotFoundElsewhere) {
    auto off = multiples(63, 0.0173F);
    off[20] *= 1.0F + 0x1p-18F;
    EXPECT_FALSE(spmm::find_integers(off).has_value());
    auto twice = multiples(20, 0.5F);
    twice[7] = twice[8];
    EXPECT_FALSE(spmm::find_integers(twice).has_value());
    auto zero = multiples(20, 0.5F);
    zero[7] = 0.0F;
    EXPECT_FALSE(spmm::find_integers(zero).has_value());
    EXPECT_FALSE(spmm::find_integers(multiples(100, 0.5F, 40)).has_value());  // 24 beyond 127
    EXPECT_TRUE(spmm::find_integers(multiples(96, 0.5F, 40)).has_value());    // 16
    EXPECT_FALSE(spmm::find_integers(multiples(7, 0.5F)).has_value());        // codes of 4 bits
    // One value is a multiple of any step, with all others far beyond.
    std::vector<float> alone = multiples(20, 0.5F);
    for (std::size_t c = 2; c < alone.size(); ++c) alone[c] *= 1.0F + 0.01F * static_cast<float>(c);
    EXPECT_FALSE(spmm::find_integers(alone).has_value());
    std::vector<float> few = multiples(20, 0.5F);
    few[1] = 300.0F;
    EXPECT_TRUE(spmm::find_integers(few).has_value());
    for (std::size_t c = 1; c <= 6; ++c) few[c] = 300.0F + static_cast<float>(c);
    EXPECT_FALSE(spmm::find_integers(few).has_value());  // 6 of 41
    EXPECT_FALSE(spmm::find_integers(std::vector<float>(40, 0.0F)).has_value());
}

TEST_P(DenseCodes, ActivationsOfEveryKindKeepTheBounds) {
    const Problem p = test::make_problem(24, 200, 0.9, 15, 2);
    const PackedMatrix matrix = packed(p);
    for (const auto& kind : test::kinds_of_activation(p.cols)) {
        auto x = test::random_x(p.cols, 3);
        for (std::size_t k = 0; k < x.size(); ++k) x[k] = kind.make(x[k], k);
        for (const Precision precision : {Precision::high, Precision::medium, Precision::low}) {
            std::vector<float> y(p.rows);
            spmm::multiply(matrix, x, 1, {}, y, precision);
            SCOPED_TRACE(kind.name);
            double largest = 0.0;
            for (const float v : x) largest = std::max(largest, std::abs(double{v}));
            for (std::size_t r = 0; r < p.rows; ++r) {
                double sum = 0.0, weights = 0.0;
                for (std::size_t k = 0; k < p.cols; ++k) {
                    sum += double{p.dense[r * p.cols + k]} * x[k];
                    weights += std::abs(double{p.dense[r * p.cols + k]});
                }
                const double denormal = 0x1p-149 * p.cols + 4.0 * 0x1p-23 * std::abs(sum);
                ASSERT_NEAR(y[r], sum, limit_of(precision) * largest * weights + denormal) << r;
            }
        }
    }
}

TEST_P(DenseCodes, LongRowsAreFolded) {
    // More lines than are added up in 32 bits, all products as large as they can be.
    const std::vector<float> whole(3 * 90'000, 1.0F);
    const Problem integers = [] {
        auto codebook = multiples(127, 1.0F);
        Problem p = test::make_problem(3, 90'000, 1.0, codebook, 1);
        std::vector<std::uint8_t> codes(
            p.dense.size(),
            static_cast<std::uint8_t>(std::ranges::find(codebook, 127.0F) - codebook.begin()));
        p.csr = csr::encode(codes, 3, 90'000, 4);
        return p;
    }();
    for (const Precision precision : {Precision::high, Precision::low}) {
        std::vector<float> y(3);
        spmm::multiply(packed(integers), std::span(whole).first(90'000), 1, {}, y, precision);
        for (const float v : y) EXPECT_NEAR(v, 127.0 * 90'000, 127.0 * 90'000 / 64.0);
    }
    for (const int values : {1, 200}) {
        const std::uint32_t cols = values == 1 ? 600'000 : 90'000;
        const Problem p = test::make_problem(
            2, cols, 1.0, std::vector<float>(static_cast<std::size_t>(values) + 1, 0.0F), 1);
        Problem same = p;
        for (std::size_t c = 1; c < same.codebook.size(); ++c) same.codebook[c] = 1.0F;
        std::ranges::fill(same.dense, 1.0F);
        const PackedMatrix matrix = packed(same);
        const std::vector<float> x(cols, 1.0F);
        std::vector<float> y(2);
        spmm::multiply(matrix, x, 1, {}, y, Precision::low);
        EXPECT_NEAR(y[0], cols, cols / 64.0);
        EXPECT_NEAR(y[1], cols, cols / 64.0);
    }
}

TEST_P(DenseCodes, TheDenseMatrixAndOtherLayoutsComeBack) {
    for (const int values : {3, 15, 200}) {
        const Problem p = test::make_problem(37, 301, 0.7, values, 6);
        const PackedMatrix matrix = packed(p, 2);
        std::vector<float> dense(p.dense.size());
        matrix.unpack(dense);
        EXPECT_EQ(dense, p.dense);
        std::vector<float> transposed(p.dense.size());
        matrix.transposed().unpack(transposed);
        for (std::size_t i = 0; i < dense.size(); ++i) {
            ASSERT_EQ(transposed[i % p.cols * p.rows + i / p.cols], dense[i]);
        }
        auto twice = p.codebook;
        for (float& v : twice) v *= 2.0F;
        const PackedMatrix revalued = matrix.with_codebook(twice);
        const auto x = test::random_x(p.cols, 3);
        std::vector<float> y(p.rows), z(p.rows);
        spmm::multiply(matrix, x, 1, {}, y, Precision::low);
        spmm::multiply(revalued, x, 1, {}, z, Precision::low);
        for (std::size_t r = 0; r < p.rows; ++r) EXPECT_NEAR(z[r], 2.0F * y[r], 1e-5F) << r;
    }
}

TEST_P(DenseCodes, ThreadsChangeNothing) {
    const Problem p = test::make_problem(150, 700, 0.8, 15, 6);
    const PackedMatrix one = packed(p);
    const PackedMatrix three = packed(p, 3);
    const auto x = test::random_x(5 * p.cols, 3);
    std::vector<float> y(5 * p.rows), z(5 * p.rows);
    for (const Precision precision : {Precision::high, Precision::low}) {
        spmm::multiply(one, x, 5, {}, y, precision, 1);
        spmm::multiply(three, x, 5, {}, z, precision, 3);
        EXPECT_EQ(y, z);
    }
}

TEST_P(DenseCodes, MemoryIsThatOfTheCodes) {
    if (!serves(15)) GTEST_SKIP() << "no kernels for dense slices";
    const Problem p = test::make_problem(512, 1024, 1.0, 15, 6);
    EXPECT_LT(static_cast<double>(packed(p).nbytes()), 0.52 * 512 * 1024);
    const Problem two = test::make_problem(512, 1024, 1.0, 3, 6);
    EXPECT_LT(static_cast<double>(packed(two).nbytes()), 0.27 * 512 * 1024);
}

TEST_P(DenseCodes, WhatIsMalformedIsRefused) {
    Problem p = test::make_problem(20, 100, 0.9, 15, 6);
    PackedMatrix matrix;
    auto past = p.csr;
    past.codes[50] = 200;
    EXPECT_FALSE(spmm::pack(past, p.codebook, matrix).ok());
    auto beyond = p.csr;
    beyond.gaps[50] = 14;
    EXPECT_FALSE(spmm::pack(beyond, p.codebook, matrix).ok());
    auto shorter = p.csr;
    shorter.row_lengths[3] -= 1;
    EXPECT_FALSE(spmm::pack(shorter, p.codebook, matrix).ok());
    auto flat = csr::encode(std::vector<std::uint8_t>(2000, 1), 20, 100, 4, true);
    EXPECT_TRUE(spmm::pack(flat, p.codebook, matrix).ok());
    flat.gaps[1999] = 1;
    EXPECT_FALSE(spmm::pack(flat, p.codebook, matrix).ok());
}

TERSOR_ON_EVERY_ISA(DenseCodes);

}  // namespace
}  // namespace tersor
