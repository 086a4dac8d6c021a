#include "tersor/c_api.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <climits>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <string>
#include <thread>
#include <vector>

#include "tersor/container.hpp"
#include "tersor/lossless.hpp"

namespace tersor {
namespace {

/// A file with the matrix {{0, 0.5, 0}, {-1, 0, 0}} twice, shared and plain, and a bias.
class CApi : public ::testing::Test {
protected:
    CApi() {
        path_ = (std::filesystem::path(::testing::TempDir()) /
                 (std::string("tersor_c_api_") +
                  ::testing::UnitTest::GetInstance()->current_test_info()->name()))
                    .string();
        const std::vector<std::uint8_t> codes = {0, 1, 0, 2, 0, 0};
        const std::vector<std::uint8_t> mask = {0, 1, 0, 1, 0, 0};
        const auto shared = encode_layer(
            {{2, 3}, ValueKind::shared_fp32, csr::encode(codes, 2, 3, 2), {0.5F, -1.0F}});
        const auto plain = encode_layer(
            {{2, 3}, ValueKind::plain_fp32, csr::encode(mask, 2, 3, 2), {0.5F, -1.0F}});
        const std::vector<std::uint8_t> bias(8);
        const std::vector<TensorToWrite> tensors = {{"shared_blob", "U8", {shared.size()}, shared},
                                                    {"plain_blob", "U8", {plain.size()}, plain},
                                                    {"bias", "F32", {2}, bias}};
        write_file(path_, tensors);
        EXPECT_EQ(tersor_open(path_.c_str(), &file_), TERSOR_OK) << tersor_last_error();
    }
    ~CApi() override {
        tersor_close(file_);
        std::filesystem::remove(path_);
    }

    std::string path_;
    tersor_file* file_ = nullptr;
};

TEST_F(CApi, ListsTheTensorsOfAFile) {
    ASSERT_EQ(tersor_tensor_count(file_), 3U);
    std::vector<std::string> compressed;
    for (std::size_t i = 0; i < 3; ++i) {
        tersor_tensor tensor;
        ASSERT_EQ(tersor_get_tensor(file_, i, &tensor, sizeof tensor), TERSOR_OK);
        if (tensor.compressed != 0) compressed.emplace_back(tensor.name);
    }
    EXPECT_EQ(compressed, (std::vector<std::string>{"plain_blob", "shared_blob"}));
    tersor_tensor bias;
    ASSERT_EQ(tersor_find_tensor(file_, "bias", &bias, sizeof bias), TERSOR_OK);
    EXPECT_STREQ(bias.dtype, "F32");
    ASSERT_EQ(bias.dimensions, 1U);
    EXPECT_EQ(bias.shape[0], 2U);
    EXPECT_EQ(bias.size, 8U);
    EXPECT_EQ(bias.compressed, 0);
}

TEST_F(CApi, ReadsTensorsWithoutLoss) {
    std::vector<std::uint8_t> floats(4 * 3000);
    for (std::size_t i = 0; i < floats.size(); ++i) {
        floats[i] = static_cast<std::uint8_t>(i % 4 == 3 ? 0x3d - i % 16 / 8 : 37 * i * i);
    }
    const auto blob = lossless::encode("F32", std::vector<std::uint64_t>{30, 100}, floats);
    const std::vector<TensorToWrite> tensors = {{"w_blob", "U8", {blob.size()}, blob},
                                                {"plain", "F32", {3000}, floats}};
    const std::string path = path_ + "_lossless";
    write_file(path, tensors);
    tersor_file* file = nullptr;
    ASSERT_EQ(tersor_open(path.c_str(), &file), TERSOR_OK) << tersor_last_error();
    tersor_tensor stored;
    ASSERT_EQ(tersor_find_tensor(file, "w_blob", &stored, sizeof stored), TERSOR_OK);
    EXPECT_EQ(stored.compressed, 2);
    for (const char* name : {"w", "w_blob", "plain"}) {
        tersor_dense dense;
        ASSERT_EQ(tersor_describe_dense(file, name, &dense, sizeof dense), TERSOR_OK) << name;
        EXPECT_STREQ(dense.dtype, "F32");
        EXPECT_EQ(dense.size, floats.size());
        EXPECT_EQ(dense.dimensions, *name == 'w' ? 2U : 1U);
        std::vector<std::uint8_t> bytes(floats.size());
        ASSERT_EQ(tersor_read_tensor(file, name, 0, bytes.data(), bytes.size(), 2), TERSOR_OK);
        EXPECT_EQ(bytes, floats);
        bytes.resize(400);
        ASSERT_EQ(tersor_read_tensor(file, name, 800, bytes.data(), bytes.size(), 1), TERSOR_OK);
        EXPECT_TRUE(std::equal(bytes.begin(), bytes.end(), floats.begin() + 800));
        EXPECT_EQ(tersor_read_tensor(file, name, 2, bytes.data(), 4, 1), TERSOR_BAD_ARGUMENT);
        EXPECT_EQ(tersor_read_tensor(file, name, 12000, bytes.data(), 4, 1), TERSOR_BAD_ARGUMENT);
        EXPECT_EQ(tersor_read_tensor(file, name, 0, nullptr, 4, 1), TERSOR_BAD_ARGUMENT);
    }
    tersor_dense dense;
    EXPECT_EQ(tersor_describe_dense(file, "x", &dense, sizeof dense), TERSOR_NOT_FOUND);
    EXPECT_EQ(tersor_describe_dense(file_, "shared_blob", &dense, sizeof dense),
              TERSOR_BAD_ARGUMENT);
    EXPECT_EQ(tersor_describe_dense(file, "w", nullptr, sizeof dense), TERSOR_BAD_ARGUMENT);
    tersor_matrix* matrix = nullptr;
    EXPECT_EQ(tersor_load_layer(file, "w_blob", 0, 1, &matrix), TERSOR_BAD_ARGUMENT);
    tersor_close(file);
    std::filesystem::remove(path);
}

TEST_F(CApi, MultipliesWithALayerThatOutlivesItsFile) {
    for (const char* name : {"shared_blob", "plain_blob"}) {
        tersor_matrix* matrix = nullptr;
        tersor_file* file = nullptr;
        ASSERT_EQ(tersor_open(path_.c_str(), &file), TERSOR_OK);
        ASSERT_EQ(tersor_load_layer(file, name, 0, 2, &matrix), TERSOR_OK) << tersor_last_error();
        tersor_close(file);
        EXPECT_EQ(tersor_rows(matrix), 2U);
        EXPECT_EQ(tersor_cols(matrix), 3U);
        EXPECT_EQ(tersor_nonzeros(matrix), 2U);
        const float x[] = {1, 2, 3, 4, 5, 6};
        const float bias[] = {10, 20};
        float y[4] = {};
        ASSERT_EQ(tersor_multiply(matrix, x, 2, bias, y, TERSOR_HIGHEST, 1), TERSOR_OK);
        const float expected[] = {11, 19, 12.5, 16};
        for (int i = 0; i < 4; ++i) EXPECT_NEAR(y[i], expected[i], 1e-5) << name << i;
        tersor_free_matrix(matrix);
    }
}

TEST_F(CApi, MultipliesWithFactors) {
    Layer layer{{2, 3}, ValueKind::shared_fp32, {}, {0.5F, -1.0F}};
    layer.csr = csr::encode(std::vector<std::uint8_t>{0, 1, 0, 2, 0, 0}, 2, 3, 2);
    layer.row_factors = {2.0F, 0.5F};
    layer.column_factors = {4.0F, 8.0F, 1.0F};
    const auto blob = encode_layer(layer);
    const std::vector<TensorToWrite> tensors = {{"w_blob", "U8", {blob.size()}, blob}};
    const std::string path = path_ + ".factors";
    write_file(path, tensors);
    tersor_file* file = nullptr;
    tersor_matrix* matrix = nullptr;
    ASSERT_EQ(tersor_open(path.c_str(), &file), TERSOR_OK) << tersor_last_error();
    ASSERT_EQ(tersor_load_layer(file, "w_blob", 0, 1, &matrix), TERSOR_OK) << tersor_last_error();
    tersor_close(file);
    const float x[] = {1, 2, 3};
    float y[2] = {};
    ASSERT_EQ(tersor_multiply(matrix, x, 1, nullptr, y, TERSOR_HIGHEST, 1), TERSOR_OK);
    EXPECT_NEAR(y[0], 16.0F, 1e-5);
    EXPECT_NEAR(y[1], -2.0F, 1e-5);
    tersor_free_matrix(matrix);
    std::filesystem::remove(path);
}

TEST_F(CApi, RunsARecurrentLayer) {
    // tanh(W x + U h) with both matrices {{0.5, 0}, {0, -1}}.
    const auto blob = encode_layer({{2, 2},
                                    ValueKind::shared_fp32,
                                    csr::encode(std::vector<std::uint8_t>{1, 0, 0, 2}, 2, 2, 2),
                                    {0.5F, -1.0F}});
    const std::vector<TensorToWrite> tensors = {{"w_blob", "U8", {blob.size()}, blob}};
    const std::string path = path_ + ".recurrent";
    write_file(path, tensors);
    tersor_file* file = nullptr;
    tersor_matrix* matrix = nullptr;
    ASSERT_EQ(tersor_open(path.c_str(), &file), TERSOR_OK) << tersor_last_error();
    ASSERT_EQ(tersor_load_layer(file, "w_blob", 0, 1, &matrix), TERSOR_OK) << tersor_last_error();
    tersor_close(file);
    const float x[] = {1, 2, 3, 4};
    const float bias[] = {0.25F, 0.5F};
    for (const int reversed : {0, 1}) {
        float h[] = {0.5F, -0.5F};
        float y[4] = {};
        double expected[] = {0.5, -0.5};
        ASSERT_EQ(tersor_run_recurrent(TERSOR_RNN_TANH, matrix, matrix, nullptr, bias, nullptr, x,
                                       2, 1, reversed, h, nullptr, y, TERSOR_HIGHEST, 1),
                  TERSOR_OK)
            << tersor_last_error();
        for (int i = 0; i < 2; ++i) {
            const int t = reversed != 0 ? 1 - i : i;
            expected[0] = std::tanh(0.5 * double{x[2 * t]} + 0.25 + 0.5 * expected[0]);
            expected[1] = std::tanh(-double{x[2 * t + 1]} + 0.5 - expected[1]);
            for (int k = 0; k < 2; ++k) EXPECT_NEAR(y[2 * t + k], expected[k], 1e-6) << t << k;
        }
        for (int k = 0; k < 2; ++k) EXPECT_NEAR(h[k], expected[k], 1e-6);
    }
    float h[2] = {}, y[4] = {};
    const auto runs = [&](int cell, const tersor_matrix* input, const float* inputs) {
        return tersor_run_recurrent(cell, input, matrix, nullptr, nullptr, nullptr, inputs, 2, 1, 0,
                                    h, nullptr, y, TERSOR_HIGH, 1);
    };
    EXPECT_EQ(runs(TERSOR_RNN_RELU, matrix, x), TERSOR_OK);
    EXPECT_EQ(runs(TERSOR_RNN_RELU, nullptr, x), TERSOR_BAD_ARGUMENT);
    EXPECT_EQ(runs(TERSOR_RNN_RELU, matrix, nullptr), TERSOR_BAD_ARGUMENT);
    EXPECT_EQ(runs(TERSOR_LSTM, matrix, x), TERSOR_BAD_ARGUMENT);
    EXPECT_EQ(runs(4, matrix, x), TERSOR_BAD_ARGUMENT);
    tersor_free_matrix(matrix);
    std::filesystem::remove(path);
}

TEST_F(CApi, FailuresAreStatusCodesWithAText) {
    tersor_file* none = file_;
    EXPECT_EQ(tersor_open((path_ + ".none").c_str(), &none), TERSOR_IO_ERROR);
    EXPECT_EQ(none, nullptr);
    EXPECT_NE(std::string(tersor_last_error()).find(".none"), std::string::npos);
    std::thread([] { EXPECT_STREQ(tersor_last_error(), ""); }).join();  // each thread has its own

    EXPECT_EQ(tersor_open(nullptr, &none), TERSOR_BAD_ARGUMENT);
    EXPECT_EQ(tersor_open(path_.c_str(), nullptr), TERSOR_BAD_ARGUMENT);
    tersor_matrix* matrix = nullptr;
    EXPECT_EQ(tersor_load_layer(file_, "bias", 0, 1, &matrix), TERSOR_BAD_ARGUMENT);
    EXPECT_EQ(tersor_load_layer(file_, "shared_blob", 0, 1, nullptr), TERSOR_BAD_ARGUMENT);
    EXPECT_EQ(tersor_load_layer(nullptr, "shared_blob", 0, 1, &matrix), TERSOR_BAD_ARGUMENT);
    EXPECT_EQ(tersor_load_layer(file_, nullptr, 0, 1, &matrix), TERSOR_BAD_ARGUMENT);
    EXPECT_EQ(tersor_load_layer(file_, "x", 0, 1, &matrix), TERSOR_NOT_FOUND);
    EXPECT_NE(std::string(tersor_last_error()).find("'x'"), std::string::npos);
    // Not even decoded; decoded, but not packed.
    for (const std::size_t max_bytes : {4, 2048}) {
        EXPECT_EQ(tersor_load_layer(file_, "shared_blob", max_bytes, 1, &matrix), TERSOR_BAD_DATA);
        EXPECT_EQ(matrix, nullptr);
        EXPECT_NE(std::string(tersor_last_error()).find("larger than allowed (at byte"),
                  std::string::npos)
            << tersor_last_error();
    }
    EXPECT_EQ(tersor_multiply(nullptr, nullptr, 1, nullptr, nullptr, TERSOR_HIGH, 1),
              TERSOR_BAD_ARGUMENT);
    ASSERT_EQ(tersor_load_layer(file_, "shared_blob", SIZE_MAX, 1, &matrix), TERSOR_OK);
    float y = 0;
    EXPECT_EQ(tersor_multiply(matrix, &y, SIZE_MAX / 2, nullptr, &y, TERSOR_HIGH, 1),
              TERSOR_BAD_ARGUMENT);
    EXPECT_EQ(tersor_multiply(matrix, nullptr, 1, nullptr, &y, TERSOR_HIGH, 1),
              TERSOR_BAD_ARGUMENT);
    EXPECT_EQ(tersor_multiply(matrix, nullptr, 0, nullptr, nullptr, TERSOR_HIGH, 1), TERSOR_OK);
    for (const int precision : {-1, 4, INT_MAX}) {
        EXPECT_EQ(tersor_multiply(matrix, nullptr, 0, nullptr, nullptr, precision, 1),
                  TERSOR_BAD_ARGUMENT);
    }
    tersor_free_matrix(matrix);
    tersor_free_matrix(nullptr);
    tersor_close(nullptr);
}

TEST_F(CApi, WhatIsAskedForIsZeroAfterAFailure) {
    const auto is_zero = [](const tersor_tensor& tensor) {
        return tensor.name == nullptr && tensor.dtype == nullptr && tensor.shape == nullptr &&
               tensor.dimensions == 0 && tensor.bytes == nullptr && tensor.size == 0 &&
               tensor.compressed == 0;
    };
    const auto garbage = [] {
        tersor_tensor tensor;
        std::memset(static_cast<void*>(&tensor), 0x55, sizeof tensor);
        return tensor;
    };
    tersor_tensor tensor = garbage();
    EXPECT_EQ(tersor_get_tensor(file_, 3, &tensor, sizeof tensor), TERSOR_NOT_FOUND);
    EXPECT_TRUE(is_zero(tensor));
    tensor = garbage();
    EXPECT_EQ(tersor_find_tensor(file_, "x", &tensor, sizeof tensor), TERSOR_NOT_FOUND);
    EXPECT_TRUE(is_zero(tensor));
    tensor = garbage();
    EXPECT_EQ(tersor_find_tensor(nullptr, "x", &tensor, sizeof tensor), TERSOR_BAD_ARGUMENT);
    EXPECT_TRUE(is_zero(tensor));
    tensor = garbage();
    EXPECT_EQ(tersor_find_tensor(file_, nullptr, &tensor, sizeof tensor), TERSOR_BAD_ARGUMENT);
    EXPECT_TRUE(is_zero(tensor));
    EXPECT_EQ(tersor_get_tensor(file_, 0, nullptr, sizeof tensor), TERSOR_BAD_ARGUMENT);
}

TEST_F(CApi, ConvolvesWithTheFiltersOfALayer) {
    tersor_matrix* filters = nullptr;
    ASSERT_EQ(tersor_load_layer(file_, "shared_blob", 0, 1, &filters), TERSOR_OK);
    const tersor_geometry geometry = {1, 1, {1, 4}, {1, 3}, {1, 1}, {0, 0}, {1, 1}};
    std::uint32_t size[2] = {7, 7};
    ASSERT_EQ(tersor_output_size(&geometry, size), TERSOR_OK);
    EXPECT_EQ(size[0], 1U);
    EXPECT_EQ(size[1], 2U);
    const std::vector<float> x = {1.0F, 2.0F, 3.0F, 4.0F};
    const std::vector<float> bias = {10.0F, 20.0F};
    for (const int precision : {TERSOR_HIGHEST, TERSOR_HIGH, TERSOR_MEDIUM, TERSOR_LOW}) {
        std::vector<float> y(4);
        ASSERT_EQ(
            tersor_convolve(filters, &geometry, x.data(), 1, bias.data(), y.data(), precision, 2),
            TERSOR_OK);
        const std::vector<float> expected = {11.0F, 11.5F, 19.0F, 18.0F};
        for (std::size_t i = 0; i < y.size(); ++i) EXPECT_NEAR(y[i], expected[i], 0.07F) << i;
    }
    std::vector<float> y(4);
    const auto convolve = [&](const tersor_geometry* g, const float* from, int precision) {
        return tersor_convolve(filters, g, from, 1, nullptr, y.data(), precision, 1);
    };
    EXPECT_EQ(convolve(nullptr, x.data(), TERSOR_HIGH), TERSOR_BAD_ARGUMENT);
    EXPECT_EQ(convolve(&geometry, nullptr, TERSOR_HIGH), TERSOR_BAD_ARGUMENT);
    EXPECT_EQ(convolve(&geometry, x.data(), TERSOR_LOW + 1), TERSOR_BAD_ARGUMENT);
    tersor_geometry wrong = geometry;
    wrong.kernel[1] = 2;
    EXPECT_EQ(convolve(&wrong, x.data(), TERSOR_HIGH), TERSOR_BAD_ARGUMENT);
    wrong.kernel[1] = 5;
    EXPECT_EQ(tersor_output_size(&wrong, size), TERSOR_BAD_ARGUMENT);
    EXPECT_EQ(size[0] + size[1], 0U);
    tersor_free_matrix(filters);
}

TEST_F(CApi, TensorsMayGrow) {
    // A caller of a later version: what this one does not know is zero.
    struct Larger {
        tersor_tensor known;
        int later;
    } larger;
    std::memset(static_cast<void*>(&larger), 0x55, sizeof larger);
    EXPECT_EQ(tersor_find_tensor(file_, "bias", &larger.known, sizeof larger), TERSOR_OK);
    EXPECT_STREQ(larger.known.name, "bias");
    EXPECT_EQ(larger.later, 0);
    // One who has no room for what this version writes.
    tersor_tensor tensor;
    tensor.compressed = 7;
    EXPECT_EQ(tersor_find_tensor(file_, "bias", &tensor, sizeof tensor - 1), TERSOR_BAD_ARGUMENT);
    EXPECT_EQ(tensor.compressed, 7);
}

TEST_F(CApi, TellsTheLevelAndTheMemoryOfAMatrix) {
    const char* before = nullptr;
    ASSERT_EQ(tersor_isa_in_use(&before), TERSOR_OK);
    EXPECT_EQ(tersor_use_isa("scalar"), TERSOR_OK);
    const char* name = nullptr;
    ASSERT_EQ(tersor_isa_in_use(&name), TERSOR_OK);
    EXPECT_STREQ(name, "scalar");
    EXPECT_EQ(tersor_use_isa("mmx"), TERSOR_BAD_ARGUMENT);
    EXPECT_EQ(tersor_use_isa(nullptr), TERSOR_BAD_ARGUMENT);
    EXPECT_EQ(tersor_isa_in_use(nullptr), TERSOR_BAD_ARGUMENT);
    ASSERT_EQ(tersor_use_isa(before), TERSOR_OK);

    tersor_matrix* matrix = nullptr;
    ASSERT_EQ(tersor_load_layer(file_, "shared_blob", 0, 1, &matrix), TERSOR_OK);
    EXPECT_GT(tersor_nbytes(matrix), 0U);
    EXPECT_EQ(tersor_nbytes(nullptr), 0U);
    tersor_free_matrix(matrix);
}

TEST_F(CApi, ADamagedFileDoesNotOpen) {
    std::fstream stream(path_, std::ios::binary | std::ios::in | std::ios::out);
    stream.seekp(-1, std::ios::end);
    stream.put('\x55');
    stream.close();
    tersor_file* file = nullptr;
    EXPECT_EQ(tersor_open(path_.c_str(), &file), TERSOR_BAD_DATA);
    EXPECT_EQ(file, nullptr);
    EXPECT_NE(std::string(tersor_last_error()).find("at byte"), std::string::npos);
}

TEST(CApiVersion, IsThatOfTheHeader) {
    EXPECT_EQ(tersor_abi_version(), static_cast<std::uint32_t>(TERSOR_ABI_VERSION));
    EXPECT_STRNE(tersor_library_version(), "");
}

}  // namespace
}  // namespace tersor
