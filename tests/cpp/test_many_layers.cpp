// Loading and verifying the layers of a file side by side.
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <numeric>
#include <random>
#include <span>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "spmm_problem.hpp"
#include "support/shares.hpp"
#include "tersor/container.hpp"
#include "tersor/pack_layer.hpp"
#include "tersor/parallel.hpp"

namespace tersor {
namespace {

using Bytes = std::vector<std::uint8_t>;

Bytes blob_of(std::uint32_t rows, std::uint32_t cols, unsigned seed) {
    const test::Problem p = test::make_problem(rows, cols, 0.3, 15, seed);
    return encode_layer(
        {{rows, cols}, ValueKind::shared_fp32, p.csr, {p.codebook.begin() + 1, p.codebook.end()}});
}

std::atomic<int> side_by_side{0};
void run_on_threads(std::size_t count, std::size_t grain, int, RangeFunction function,
                    void* context) {
    std::vector<std::thread> threads;
    for (std::size_t begin = 0; begin < count; begin += grain) {
        threads.emplace_back(function, context, begin, std::min(begin + grain, count));
    }
    side_by_side = std::max(side_by_side.load(), static_cast<int>(threads.size()));
    for (std::thread& thread : threads) thread.join();
}

class ManyLayers : public ::testing::Test {
protected:
    void SetUp() override {
        side_by_side = 0;
        set_parallel_runner(run_on_threads);
    }
    void TearDown() override { set_parallel_runner(nullptr); }
};

TEST_F(ManyLayers, SharesHoldEachTaskOnceAndTheLargestFirst) {
    const std::vector<std::uint64_t> sizes = {5, 1, 9, 3, 3, 0, 4};
    for (const int threads : {-1, 0, 1, 2, 3, 7, 100}) {
        const auto shares = support::shares_of(sizes, threads);
        EXPECT_LE(shares.size(), std::min<std::size_t>(sizes.size(), std::max(threads, 1)));
        std::vector<int> seen(sizes.size());
        std::uint64_t most = 0;
        for (const auto& share : shares) {
            std::uint64_t work = 0;
            for (const std::size_t task : share) {
                ++seen[task];
                work += sizes[task];
            }
            most = std::max(most, work);
        }
        EXPECT_EQ(seen, std::vector<int>(sizes.size(), 1));
        const std::uint64_t even = 25 / shares.size() + 1;
        EXPECT_LE(most, std::max<std::uint64_t>(9, even * 4 / 3)) << threads;
    }
    EXPECT_EQ(support::shares_of({}, 4).size(), 1U);
}

TEST_F(ManyLayers, ArePackedAsEachAlone) {
    // One is so large that all threads work on it.
    std::vector<Bytes> blobs;
    for (unsigned i = 0; i < 9; ++i) blobs.push_back(blob_of(20 + 10 * i, 150, i));
    blobs.push_back(blob_of(1500, 600, 20));
    Bytes damaged = blobs[2];
    damaged[damaged.size() / 2] ^= 1U;
    blobs.push_back(damaged);
    const std::vector<std::span<const std::uint8_t>> views(blobs.begin(), blobs.end());
    for (const int threads : {1, 2, 4, 100}) {
        std::vector<PackedMatrix> packed(blobs.size());
        const std::vector<Result> results = pack_layers(views, packed, SIZE_MAX, threads);
        ASSERT_EQ(results.size(), blobs.size());
        for (std::size_t i = 0; i < blobs.size(); ++i) {
            PackedMatrix alone;
            const Result expected = pack_layer(views[i], alone);
            EXPECT_EQ(results[i].status, expected.status) << i;
            EXPECT_EQ(results[i].count, expected.count) << i;
            if (!expected.ok()) continue;
            EXPECT_EQ(packed[i].nbytes(), alone.nbytes());
            const std::vector<float> x = test::random_x(alone.cols(), 3);
            std::vector<float> y(alone.rows()), expected_y(alone.rows());
            spmm::multiply(packed[i], x, 1, {}, y);
            spmm::multiply(alone, x, 1, {}, expected_y);
            EXPECT_EQ(y, expected_y) << i;
        }
        EXPECT_EQ(results.back().status, Status::hash_mismatch);
    }
    EXPECT_GT(side_by_side, 3);
    std::vector<PackedMatrix> few(2);
    EXPECT_THROW(static_cast<void>(pack_layers(views, few)), std::invalid_argument);
    EXPECT_TRUE(pack_layers({}, {}).empty());
}

TEST_F(ManyLayers, AreVerifiedSideBySide) {
    std::vector<Bytes> contents;
    std::vector<TensorToWrite> tensors;
    for (unsigned i = 0; i < 12; ++i) contents.push_back(Bytes(5000 + 1000 * i, std::uint8_t(i)));
    for (const Bytes& bytes : contents) {
        std::string name = std::to_string(10 + tensors.size());
        name.insert(0, 1, 't');
        tensors.push_back({name, "U8", {bytes.size()}, bytes});
    }
    const std::string path =
        ::testing::TempDir() + "tersor_many_layers_" + std::to_string(std::random_device()());
    write_file(path, tensors);
    File whole;
    ASSERT_TRUE(File::open(path, whole).ok());
    for (const int threads : {1, 2, 5, 100}) {
        EXPECT_TRUE(whole.verify(threads).ok());
        EXPECT_EQ(whole.verify(threads).count, whole.file_bytes());
    }
    EXPECT_GT(side_by_side, 4);
    // Of some faults the first tensor's is told.
    Bytes bytes;
    std::size_t first = 0;
    {
        std::vector<std::uint8_t> read(whole.file_bytes());
        std::FILE* stream = std::fopen(path.c_str(), "rb");
        ASSERT_NE(stream, nullptr);
        ASSERT_EQ(std::fread(read.data(), 1, read.size(), stream), read.size());
        std::fclose(stream);
        first = whole.find("t13")->offset;
        read[first] ^= 1U;
        read[whole.find("t20")->offset + 7] ^= 1U;
        bytes = read;
    }
    File damaged;
    ASSERT_TRUE(File::parse(bytes, damaged).ok());
    for (const int threads : {1, 2, 5, 100}) {
        EXPECT_EQ(damaged.verify(threads).status, Status::hash_mismatch);
        EXPECT_EQ(damaged.verify(threads).count, first);
    }
    std::remove(path.c_str());
}

}  // namespace
}  // namespace tersor
