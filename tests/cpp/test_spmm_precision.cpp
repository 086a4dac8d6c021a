// The precision classes: each bound on each instruction set, for activations of every kind.
#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <thread>

#include "isa_test.hpp"
#include "spmm_problem.hpp"
#include "tersor/spmm.hpp"

namespace tersor {
namespace {

using test::IsaTest;
using test::make_problem;
using test::Problem;
using test::random_x;

constexpr Precision fixed_classes[] = {Precision::high, Precision::medium, Precision::low};

double error_limit(Precision precision) {
    if (precision == Precision::high) return 0x1p-18;
    return precision == Precision::medium ? 0x1p-13 : 0x1p-6;
}

/// |y - y_ref| <= c_p * max|x| * sum |w| and, where products are denormal, 2^-149 for each.
void expect_class(const Problem& p, std::span<const float> x, std::span<const float> bias,
                  std::span<const float> y, Precision precision) {
    double largest = 0.0;
    for (const float v : x) largest = std::max(largest, std::abs(double{v}));
    for (std::size_t r = 0; r < p.rows; ++r) {
        double sum = bias.empty() ? 0.0 : double{bias[r]};
        double weights = 0.0;
        for (std::size_t k = 0; k < p.cols; ++k) {
            const double w = p.dense[r * p.cols + k];
            sum += w * x[k];
            weights += std::abs(w);
        }
        const double bound = error_limit(precision) * largest * weights +
                             0x1p-22 * (bias.empty() ? 0.0 : std::abs(double{bias[r]})) +
                             p.cols * 0x1p-149;
        ASSERT_NEAR(y[r], sum, bound) << "row " << r;
    }
}

PackedMatrix packed_of(const Problem& p, LayoutHint layout_hint = LayoutHint::vector) {
    PackedMatrix packed;
    EXPECT_TRUE(spmm::pack(p.csr, p.codebook, packed, layout_hint).ok());
    return packed;
}

void expect_every_class(const Problem& p, const PackedMatrix& packed, std::span<const float> x) {
    const auto bias = random_x(p.rows, 5);
    for (const Precision precision : fixed_classes) {
        SCOPED_TRACE("class " + std::to_string(static_cast<int>(precision)));
        std::vector<float> y(p.rows, -1.0F);
        spmm::multiply(packed, x, 1, {}, y, precision);
        expect_class(p, x, {}, y, precision);
        spmm::multiply(packed, x, 1, bias, y, precision, 3);
        expect_class(p, x, bias, y, precision);
    }
}

class SpmmPrecisionTest : public IsaTest {};

TEST_P(SpmmPrecisionTest, EveryShapeAndCodebook) {
    unsigned seed = 0;
    for (const auto& [rows, cols] :
         {std::pair{1U, 1U}, {3U, 17U}, {16U, 128U}, {65U, 300U}, {200U, 784U}, {2U, 70000U}}) {
        for (const double density : {0.0, 0.01, 0.09, 0.5, 1.0}) {
            for (const int values : {1, 15, 16, 63, 64, 127, 128, 255}) {
                if (cols > 1000 && values != 15 && values != 255) continue;
                const Problem p = make_problem(rows, cols, density, values, ++seed);
                const PackedMatrix packed = packed_of(p);
                SCOPED_TRACE(std::to_string(cols) + " columns, density " + std::to_string(density) +
                             ", values " + std::to_string(values));
                std::vector<float> unpacked(p.dense.size());
                packed.unpack(unpacked);
                ASSERT_EQ(unpacked, p.dense);
                expect_every_class(p, packed, random_x(cols, seed));
            }
        }
    }
}

TEST_P(SpmmPrecisionTest, EveryKindOfActivation) {
    constexpr std::size_t cols = 500;
    const Problem p = make_problem(70, cols, 0.2, 15, 3);
    const PackedMatrix packed = packed_of(p);
    for (const auto& kind : test::kinds_of_activation(cols)) {
        SCOPED_TRACE(kind.name);
        std::vector<float> x = random_x(cols, 4);
        for (std::size_t k = 0; k < cols; ++k) x[k] = kind.make(x[k], k);
        expect_every_class(p, packed, x);
    }
}

// A window moves by a limited distance in a step.
TEST_P(SpmmPrecisionTest, LongGapsTakeEmptySteps) {
    constexpr std::uint32_t rows = 20;
    constexpr std::uint32_t cols = 40000;
    Problem p = make_problem(rows, cols, 0.0, 15, 71);
    std::vector<std::uint8_t> codes(p.dense.size());
    for (std::size_t r = 0; r < rows; ++r) {
        // The last rows are empty, and others end early.
        for (const std::size_t column : {r, 9000 + 17 * r, std::size_t{39999}}) {
            if (r >= 18 || column > 2300 * r) continue;
            codes[r * cols + column] = static_cast<std::uint8_t>(1 + r % 15);
            p.dense[r * cols + column] = p.codebook[1 + r % 15];
        }
    }
    p.csr = csr::encode(codes, rows, cols, 8);
    const PackedMatrix packed = packed_of(p);
    std::vector<float> unpacked(p.dense.size());
    packed.unpack(unpacked);
    ASSERT_EQ(unpacked, p.dense);
    expect_every_class(p, packed, random_x(cols, 72));
}

// Vectors go through in groups; one that fixed point cannot take must not change its neighbours.
TEST_P(SpmmPrecisionTest, BatchesOfEverySizeAndKind) {
    constexpr std::uint32_t rows = 37;
    constexpr std::uint32_t cols = 300;
    for (const int values : {15, 40, 200}) {
        const Problem p = make_problem(rows, cols, 0.2, values, 13);
        const PackedMatrix packed = packed_of(p);
        const auto bias = random_x(rows, 14);
        for (const std::size_t batch : {2, 4, 7, 8, 9, 21, 77}) {
            std::vector<float> x = random_x(batch * cols, 15);
            const std::size_t small = batch / 2;
            for (std::size_t k = 0; k < cols; ++k) x[small * cols + k] *= 1e-37F;
            for (const Precision precision : fixed_classes) {
                std::vector<float> y(batch * rows);
                spmm::multiply(packed, x, batch, bias, y, precision, 2);
                for (std::size_t n = 0; n < batch; ++n) {
                    SCOPED_TRACE(std::to_string(n) + " of " + std::to_string(batch));
                    const auto one = std::span(x).subspan(n * cols, cols);
                    expect_class(p, one, bias, std::span(y).subspan(n * rows, rows), precision);
                }
            }
        }
    }
}

// Integer sums are folded before they overflow, and panels have many blocks.
TEST_P(SpmmPrecisionTest, BatchesOfLongVectors) {
    constexpr std::uint32_t rows = 19;
    constexpr std::uint32_t cols = 35000;
    const Problem p = make_problem(rows, cols, 0.3, 15, 16);
    const PackedMatrix packed = packed_of(p);
    for (const std::size_t batch : {7, 50}) {
        const std::vector<float> x = random_x(batch * cols, 17);
        for (const Precision precision : fixed_classes) {
            std::vector<float> y(batch * rows);
            spmm::multiply(packed, x, batch, {}, y, precision);
            for (const std::size_t n : {std::size_t{0}, batch - 1}) {
                const auto one = std::span(x).subspan(n * cols, cols);
                expect_class(p, one, {}, std::span(y).subspan(n * rows, rows), precision);
            }
        }
    }
}

TEST_P(SpmmPrecisionTest, ZeroActivationsGiveTheBias) {
    const Problem p = make_problem(33, 100, 0.3, 15, 8);
    const PackedMatrix packed = packed_of(p);
    const auto bias = random_x(33, 9);
    for (const Precision precision : fixed_classes) {
        std::vector<float> y(33);
        spmm::multiply(packed, std::vector<float>(100, 0.0F), 1, bias, y, precision);
        EXPECT_EQ(y, bias);
    }
}

TEST_P(SpmmPrecisionTest, FlatGapsAndThreadsPackTheSame) {
    for (const int index_bits : {2, 5, 8}) {
        const Problem p = make_problem(301, 77, 0.05, 15, 61);
        std::vector<std::uint8_t> codes(p.dense.size());
        ASSERT_TRUE(csr::decode(p.csr, codes).ok());
        const auto x = random_x(77, 62);
        for (const bool flat : {false, true}) {
            const RelativeCsr matrix = csr::encode(codes, 301, 77, index_bits, flat);
            for (const LayoutHint layout_hint : {LayoutHint::vector, LayoutHint::batch}) {
                PackedMatrix packed;
                ASSERT_TRUE(spmm::pack(matrix, p.codebook, packed, layout_hint, 3).ok());
                std::vector<float> unpacked(p.dense.size());
                packed.unpack(unpacked);
                ASSERT_EQ(unpacked, p.dense) << index_bits << flat;
                expect_every_class(p, packed, x);
            }
        }
    }
}

// Fixed point counts in steps of the largest weight: rows of small ones need a finer arithmetic.
TEST_P(SpmmPrecisionTest, RowsOfSmallWeightsMeetTheBoundToo) {
    for (const float small : {0.3F, 0.1F, 0.01F, 1e-4F, 1e-9F, 1e-40F}) {
        SCOPED_TRACE(small);
        Problem p = make_problem(40, 200, 0.2, {0.0F, 1.0F, small, -small}, 11);
        std::vector<std::uint8_t> codes(p.dense.size());
        for (std::size_t i = 0; i < codes.size(); ++i) {
            if (i / 200 < 20 && p.dense[i] == 1.0F) p.dense[i] = small;
            codes[i] = p.dense[i] == 1.0F    ? 1
                       : p.dense[i] == small ? 2
                       : p.dense[i] != 0.0F  ? 3
                                             : 0;
        }
        p.csr = csr::encode(codes, 40, 200, 4);
        expect_every_class(p, packed_of(p), random_x(200, 12));
    }
}

TEST_P(SpmmPrecisionTest, ValuesThatAreZeroAreWeights) {
    const Problem p = make_problem(20, 64, 0.5, {0.0F, 0.0F, -0.0F}, 2);
    expect_every_class(p, packed_of(p), random_x(64, 3));
}

// As a dense layer: 0 * NaN and 0 * infinity are NaN.
// Sums of such weights are beyond fp32, and so are the terms that fixed point adds up, while the
// products are not.
TEST_P(SpmmPrecisionTest, ExtremeWeightsGiveWhatADenseLayerGives) {
    constexpr std::uint32_t rows = 70;
    constexpr std::uint32_t cols = 300;
    unsigned seed = 300;
    for (const int values : {15, 60}) {
        for (const float weight : {3e37F, 1e30F, 1e25F, 1e-20F, 1e-30F, 1e-36F}) {
            for (const float activation : {1e-3F, 1e-20F, 1e5F, 1e12F}) {
                const double size = double{weight} * activation;
                if (size > 1e36 || size < 1e-34) continue;
                for (const float shift : {0.0F, 3.0F, -3.0F}) {
                    std::vector<float> codebook =
                        random_x(static_cast<std::size_t>(values) + 1, ++seed);
                    for (float& w : codebook) w = std::clamp(w, -3.0F, 3.0F) * weight;
                    codebook[0] = 0.0F;
                    const Problem p = make_problem(rows, cols, 0.3, codebook, seed);
                    std::vector<float> x = random_x(std::size_t{64} * cols, seed);
                    for (float& v : x) v = (v + shift) * activation;
                    const PackedMatrix packed = packed_of(p);
                    for (const std::size_t batch : {1, 5, 64}) {
                        for (const Precision precision : fixed_classes) {
                            SCOPED_TRACE(std::to_string(weight) + " * " +
                                         std::to_string(activation) + ", shifted by " +
                                         std::to_string(shift) + ", class " +
                                         std::to_string(static_cast<int>(precision)) + ", batch " +
                                         std::to_string(batch));
                            std::vector<float> y(batch * rows);
                            spmm::multiply(packed, std::span(x).first(batch * cols), batch, {}, y,
                                           precision);
                            for (std::size_t n = 0; n < batch; ++n) {
                                expect_class(p, std::span(x).subspan(n * cols, cols), {},
                                             std::span(y).subspan(n * rows, rows), precision);
                                if (HasFatalFailure()) return;
                            }
                        }
                    }
                }
            }
        }
    }
}

TEST_P(SpmmPrecisionTest, NotFiniteActivationsActAsInADenseLayer) {
    constexpr float nan = std::numeric_limits<float>::quiet_NaN();
    constexpr float infinity = std::numeric_limits<float>::infinity();
    const Problem p = make_problem(60, 40, 0.5, 7, 21);
    const PackedMatrix packed = packed_of(p);
    for (const float strange : {nan, infinity, -infinity}) {
        for (const std::size_t batch : {1, 3, 5, 40}) {
            for (const Precision precision :
                 {Precision::highest, Precision::high, Precision::low}) {
                std::vector<float> x = random_x(batch * 40, 22);
                x[(batch - 1) * 40 + 13] = strange;
                std::vector<float> y(batch * 60);
                spmm::multiply(packed, x, batch, {}, y, precision);
                for (std::size_t n = 0; n < batch; ++n) {
                    for (std::size_t r = 0; r < 60; ++r) {
                        double sum = 0.0;
                        for (std::size_t k = 0; k < 40; ++k) {
                            sum += double{p.dense[r * 40 + k]} * x[n * 40 + k];
                        }
                        const float found = y[n * 60 + r];
                        ASSERT_EQ(std::isnan(found), std::isnan(sum)) << strange << " row " << r;
                        if (std::isinf(sum)) {
                            ASSERT_EQ(found, static_cast<float>(sum));
                        }
                        ASSERT_EQ(std::isfinite(found), n + 1 != batch);
                    }
                }
            }
        }
    }
}

TEST_P(SpmmPrecisionTest, ASecondLayoutIsMadeWhenNeededAndCounted) {
    const Problem p = make_problem(300, 1000, 0.09, 15, 31);
    const PackedMatrix packed = packed_of(p);
    const PackedMatrix for_batches = packed_of(p, LayoutHint::batch);
    const std::vector<float> x = random_x(1000, 32);
    std::vector<float> y(300), expected(300);

    const std::size_t before = packed.nbytes();
    for (const Precision precision : fixed_classes) spmm::multiply(packed, x, 1, {}, y, precision);
    EXPECT_EQ(packed.nbytes(), before);  // made by pack

    spmm::multiply(packed, x, 1, {}, y, Precision::highest);
    spmm::multiply(for_batches, x, 1, {}, expected, Precision::highest);
    EXPECT_EQ(y, expected);

    spmm::multiply(packed, x, 1, {}, y, Precision::high);
    spmm::multiply(for_batches, x, 1, {}, expected, Precision::high);
    EXPECT_EQ(y, expected);

    std::vector<float> not_finite = x;
    not_finite[7] = std::numeric_limits<float>::infinity();
    spmm::multiply(packed, not_finite, 1, {}, y);
    spmm::multiply(for_batches, not_finite, 1, {}, expected);
    // Both hold all; they may have ordered the rows by other estimates.
    const auto expected_bytes = static_cast<double>(for_batches.nbytes());
    EXPECT_NEAR(static_cast<double>(packed.nbytes()), expected_bytes, 0.01 * expected_bytes);
}

TEST_P(SpmmPrecisionTest, ThreadsMayShareTheFirstUse) {
    const Problem p = make_problem(300, 1000, 0.09, 15, 41);
    const std::vector<float> x = random_x(1000, 42);
    for (const LayoutHint layout_hint : {LayoutHint::vector, LayoutHint::batch}) {
        const PackedMatrix packed = packed_of(p, layout_hint);
        std::vector<std::vector<float>> results(4, std::vector<float>(300));
        std::vector<std::thread> threads;
        threads.reserve(4);
        for (std::size_t t = 0; t < results.size(); ++t) {
            threads.emplace_back([&, t] {
                const Precision precision = t % 2 == 0 ? Precision::high : Precision::highest;
                spmm::multiply(packed, x, 1, {}, results[t], precision);
            });
        }
        for (std::thread& thread : threads) thread.join();
        EXPECT_EQ(results[0], results[2]);
        EXPECT_EQ(results[1], results[3]);
        expect_class(p, x, {}, results[0], Precision::high);
    }
}

TERSOR_ON_EVERY_ISA(SpmmPrecisionTest);

TEST(SpmmLayout, BytesPerNonzero) {
    if (!available(Isa::avx512)) GTEST_SKIP() << "the SELL layout needs AVX-512";
    const Isa previous = isa_in_use();
    use_isa(Isa::avx512);
    const auto bytes_per_nonzero = [](double density, int values, LayoutHint layout_hint) {
        const Problem p = make_problem(1024, 4096, density, values, 51);
        const PackedMatrix packed = packed_of(p, layout_hint);
        return static_cast<double>(packed.nbytes()) / static_cast<double>(packed.nonzeros());
    };
    EXPECT_LT(bytes_per_nonzero(0.04, 15, LayoutHint::vector), 2.38);
    EXPECT_LT(bytes_per_nonzero(0.09, 15, LayoutHint::vector), 1.83);
    // Small enough for the second cache, dense enough for it: narrow windows.
    EXPECT_LT(bytes_per_nonzero(0.11, 15, LayoutHint::vector), 2.08);
    EXPECT_LT(bytes_per_nonzero(0.18, 15, LayoutHint::vector), 1.68);
    EXPECT_LT(bytes_per_nonzero(0.25, 15, LayoutHint::vector), 1.69);
    EXPECT_LT(bytes_per_nonzero(0.5, 15, LayoutHint::vector), 1.57);
    EXPECT_LT(bytes_per_nonzero(0.09, 255, LayoutHint::vector), 2.41);
    EXPECT_LT(bytes_per_nonzero(0.09, 15, LayoutHint::batch), 3.05);
    use_isa(previous);
}

}  // namespace
}  // namespace tersor
