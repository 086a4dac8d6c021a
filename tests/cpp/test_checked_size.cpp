// Sizes whose products wrap: none is taken for a small one.
#include "support/checked_size.hpp"

#include <gtest/gtest.h>

#include <stdexcept>

#include "spmm_problem.hpp"
#include "support/physical_memory.hpp"
#include "tersor/conv.hpp"
#include "tersor/spmm.hpp"

namespace tersor {
namespace {

using conv::Geometry;

/// Times a small even number, 0 or a small number in a std::size_t.
constexpr std::size_t half_of_all = SIZE_MAX / 2 + 1;

TEST(CheckedSize, MultipliesUpToWhatAnObjectMayHave) {
    using support::checked_product;
    EXPECT_EQ(checked_product(3U, std::size_t{5}, std::uint64_t{7}), 105U);
    EXPECT_EQ(checked_product(std::uint64_t{PTRDIFF_MAX}), std::size_t{PTRDIFF_MAX});
    EXPECT_EQ(checked_product(0U, std::uint64_t{UINT64_MAX}), 0U);
    EXPECT_EQ(checked_product(UINT64_MAX), std::nullopt);
    EXPECT_EQ(checked_product(half_of_all / 2, 2U), std::nullopt);
    EXPECT_EQ(checked_product(UINT32_MAX, UINT32_MAX, UINT32_MAX), std::nullopt);
    EXPECT_EQ(checked_product(half_of_all, 2U, 0U), std::nullopt);
    std::uint64_t size = 3;
    EXPECT_FALSE(support::multiply_size(size, UINT64_MAX / 3));
    EXPECT_EQ(size, 3U);
}

PackedMatrix packed(std::uint32_t rows, std::uint32_t cols) {
    const test::Problem p = test::make_problem(rows, cols, 0.9, 3, 1);
    PackedMatrix matrix;
    EXPECT_TRUE(spmm::pack(p.csr, p.codebook, matrix).ok());
    return matrix;
}

TEST(CheckedSize, ABatchThatWrapsIsRefused) {
    const PackedMatrix matrix = packed(2, 4);
    std::vector<float> none;
    EXPECT_THROW(spmm::multiply(matrix, none, half_of_all, {}, none), std::invalid_argument);
    for (const spmm::KernelInfo& kernel : spmm::kernel_list()) {
        if (kernel.isa != matrix.isa()) continue;
        EXPECT_THROW(spmm::multiply_by(kernel.name, matrix, none, half_of_all, none),
                     std::invalid_argument)
            << kernel.name;
    }
    std::vector<float> sums(matrix.codebook_size());
    EXPECT_THROW(spmm::sum_by_code(matrix, none, none, half_of_all, 0, 2, sums),
                 std::invalid_argument);
}

TEST(CheckedSize, RowsThatWrapAreRefused) {
    const PackedMatrix matrix = packed(4, 3);
    std::vector<float> sums(matrix.codebook_size());
    const std::vector<float> x(3), gradient(2);
    EXPECT_NO_THROW(spmm::sum_by_code(matrix, x, gradient, 1, 2, 2, sums));
    for (const std::size_t begin : {std::size_t{3}, SIZE_MAX, SIZE_MAX - 1, SIZE_MAX - 2}) {
        EXPECT_THROW(spmm::sum_by_code(matrix, x, gradient, 1, begin, 2, sums),
                     std::invalid_argument)
            << begin;
    }
}

TEST(CheckedSize, RowsThatNothingBacksAreRefused) {
    RelativeCsr flat{UINT32_MAX, 4, 4, true, {1}, {0}, {}};
    PackedMatrix matrix;
    if (std::uint64_t{UINT32_MAX} * 64 <= support::physical_memory()) GTEST_SKIP() << "they fit";
    EXPECT_EQ(spmm::pack(flat, std::vector<float>{0, 1}, matrix).status, Status::too_large);
    EXPECT_EQ(spmm::pack_values(flat, std::vector<float>{1}, matrix).status, Status::too_large);
    flat.rows = 5;
    EXPECT_TRUE(spmm::pack(flat, std::vector<float>{0, 1}, matrix).ok());
}

TEST(CheckedSize, AMatrixLargerThanAnAddressSpaceIsNotUnpackedIntoNothing) {
    // On a system of 32 bits, rows * cols is 0.
    RelativeCsr csr{65536, 65536, 4, false, {1}, {0}, std::vector<std::uint32_t>(65536)};
    csr.row_lengths[65535] = 1;
    PackedMatrix matrix;
    ASSERT_TRUE(spmm::pack(csr, std::vector<float>{0, 1}, matrix).ok());
    std::vector<float> none;
    EXPECT_THROW(matrix.unpack(none), std::invalid_argument);
}

TEST(CheckedSize, AConvolutionsBatchThatWrapsIsRefused) {
    const PackedMatrix filters = packed(4, 4);
    const Geometry g{.in_channels = 4, .input = {1, 1}};
    std::vector<float> none;
    EXPECT_THROW(conv::convolve(filters, g, none, half_of_all, {}, none), std::invalid_argument);
}

TEST(CheckedSize, PaddingThatNothingReadsTakesNoMemory) {
    const PackedMatrix filters = packed(1, 1);
    const std::vector<float> x = {3};
    const std::vector<float> bias = {0.5F};
    constexpr std::uint32_t big = std::uint32_t{1} << 31;
    // Phase planes of 2^62 pixels, of which four are read: all of them padding.
    const Geometry g{.input = {1, 1}, .stride = {big, big}, .padding = {big / 2, big / 2}};
    ASSERT_EQ(conv::output_size(g).h, 2U);
    std::vector<float> y(4);
    conv::convolve(filters, g, x, 1, bias, y);
    EXPECT_EQ(y, std::vector<float>(4, 0.5F));
    // The same, and the second of three outputs reads the pixel.
    const Geometry middle{.input = {1, 1}, .stride = {big, big}, .padding = {big, big}};
    ASSERT_EQ(conv::output_size(middle).w, 3U);
    std::vector<float> z(9);
    conv::convolve(filters, middle, x, 1, bias, z);
    std::vector<float> weight(1);
    filters.unpack(weight);
    for (std::size_t i = 0; i < z.size(); ++i) {
        EXPECT_EQ(z[i], i == 4 ? 3 * weight[0] + 0.5F : 0.5F) << i;
    }
}

TEST(CheckedSize, GeometriesLargerThanMemoryAreRefused) {
    constexpr std::uint32_t big = std::uint32_t{1} << 31;
    // An output of 2^32 + 1 pixels, not of one.
    EXPECT_THROW(static_cast<void>(conv::output_size({.input = {1, 1}, .padding = {big, 0}})),
                 std::invalid_argument);
    // Four outputs, and taps that are 2^32 - 1 pixels apart in both directions: all read padding.
    const PackedMatrix filters = packed(1, 4);
    const Geometry g{.input = {1, 1},
                     .kernel = {2, 2},
                     .padding = {big, big},
                     .dilation = {UINT32_MAX, UINT32_MAX}};
    ASSERT_EQ(conv::output_size(g).h, 2U);
    const std::vector<float> x = {1};
    std::vector<float> y(4, 5.0F);
    conv::convolve(filters, g, x, 1, {}, y);
    EXPECT_EQ(y, std::vector<float>(4, 0.0F));
    const Geometry channels{.in_channels = UINT32_MAX, .input = {UINT32_MAX, UINT32_MAX}};
    EXPECT_THROW(conv::convolve(filters, channels, x, 1, {}, y), std::invalid_argument);
}

}  // namespace
}  // namespace tersor
