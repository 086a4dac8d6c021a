// Many threads that make one packed matrix or multiply with it, watched by ThreadSanitizer.
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <limits>
#include <random>
#include <thread>
#include <utility>

#include "isa_test.hpp"
#include "spmm_problem.hpp"
#include "tersor/parallel.hpp"
#include "tersor/spmm.hpp"

namespace tersor {
namespace {

class Concurrency : public test::IsaTest {};

std::atomic<int> threads_started{0};

/// Threads of its own: ThreadSanitizer does not see what OpenMP's wait for.
void run_on_threads(std::size_t count, std::size_t grain, int, RangeFunction function,
                    void* context) {
    std::vector<std::thread> threads;
    for (std::size_t begin = 0; begin < count; begin += grain) {
        ++threads_started;
        threads.emplace_back(function, context, begin, std::min(begin + grain, count));
    }
    for (std::thread& thread : threads) thread.join();
}

// So large that there are several groups of rows.
TEST_P(Concurrency, ThreadsPackWhatOneThreadPacks) {
    const test::Problem p = test::make_problem(2000, 1500, 0.25, 15, 10);
    const std::vector<float> x = test::random_x(p.cols, 11);
    const auto product = [&](int threads) {
        PackedMatrix packed;
        EXPECT_TRUE(spmm::pack(p.csr, p.codebook, packed, LayoutHint::vector, threads).ok());
        std::vector<float> y(p.rows);
        spmm::multiply(packed, x, 1, {}, y, Precision::high);
        return std::pair(packed.nbytes(), y);
    };
    const auto expected = product(1);
    threads_started = 0;
    set_parallel_runner(run_on_threads);
    const auto packed_by_threads = product(4);
    set_parallel_runner(nullptr);
    EXPECT_EQ(packed_by_threads, expected);
    // The portable layout has no groups.
    EXPECT_GT(threads_started, GetParam() == Isa::scalar ? -1 : 1);
}

// No more than there is work for: neither memory nor time goes with what is asked for.
TEST_P(Concurrency, AnyNumberOfThreadsDoes) {
    const test::Problem p = test::make_problem(300, 400, 0.25, 15, 12);
    const std::vector<float> x = test::random_x(std::size_t{70} * p.cols, 13);
    const std::vector<float> gradient = test::random_x(std::size_t{70} * p.rows, 14);
    const auto everything = [&](int threads) {
        std::vector<float> all;
        PackedMatrix packed;
        EXPECT_TRUE(spmm::pack(p.csr, p.codebook, packed, LayoutHint::vector, threads).ok());
        for (const Precision precision : {Precision::highest, Precision::high, Precision::low}) {
            for (const std::size_t batch : {1, 9, 70}) {
                std::vector<float> y(batch * p.rows);
                spmm::multiply(packed, std::span(x).first(batch * p.cols), batch, {}, y, precision,
                               threads);
                all.insert(all.end(), y.begin(), y.end());
            }
        }
        return all;
    };
    const std::vector<float> expected = everything(1);
    set_parallel_runner(run_on_threads);
    for (const int threads : {-1, 0, 3, 10'000'000, std::numeric_limits<int>::max()}) {
        EXPECT_EQ(everything(threads), expected) << threads;
    }
    PackedMatrix packed;
    EXPECT_TRUE(spmm::pack(p.csr, p.codebook, packed).ok());
    std::vector<float> one(p.codebook.size()), many(p.codebook.size());
    spmm::sum_by_code(packed, x, gradient, 70, 0, p.rows, one, 1);
    spmm::sum_by_code(packed, x, gradient, 70, 0, p.rows, many, std::numeric_limits<int>::max());
    set_parallel_runner(nullptr);
    for (std::size_t c = 0; c < one.size(); ++c) EXPECT_NEAR(one[c], many[c], 1e-2F) << c;
}

TEST_P(Concurrency, ThreadsThatMultiplyWithOneMatrixAgree) {
    constexpr std::uint32_t rows = 70;
    constexpr std::uint32_t cols = 130;
    std::mt19937 generator(9);
    std::vector<std::uint8_t> codes(std::size_t{rows} * cols);
    for (auto& code : codes) {
        if (generator() % 6 == 0) code = static_cast<std::uint8_t>(1 + generator() % 15);
    }
    std::vector<float> codebook(16);
    for (std::size_t i = 1; i < codebook.size(); ++i) codebook[i] = 0.125F * static_cast<float>(i);
    std::vector<float> x(std::size_t{40} * cols);
    for (float& value : x) value = static_cast<float>(generator() % 17) - 8;

    const RelativeCsr csr = csr::encode(codes, rows, cols, 4);
    const auto product = [&](const PackedMatrix& packed, std::size_t batch, Precision precision) {
        std::vector<float> y(batch * rows);
        spmm::multiply(packed, std::span(x).first(batch * cols), batch, {}, y, precision);
        return y;
    };
    // One matrix that nobody has used: its second layout is made while others multiply.
    PackedMatrix shared;
    ASSERT_TRUE(spmm::pack(csr, codebook, shared).ok());
    PackedMatrix alone;
    ASSERT_TRUE(spmm::pack(csr, codebook, alone).ok());
    constexpr std::size_t batches[] = {1, 3, 40};
    constexpr Precision precisions[] = {Precision::highest, Precision::high, Precision::low};
    std::vector<std::vector<float>> expected;
    for (const std::size_t batch : batches) {
        for (const Precision p : precisions) expected.push_back(product(alone, batch, p));
    }
    std::vector<std::thread> threads;
    std::vector<int> failures(4);
    for (std::size_t t = 0; t < failures.size(); ++t) {
        threads.emplace_back([&, t] {
            for (std::size_t turn = 0; turn < 2 * expected.size(); ++turn) {
                const std::size_t i = (turn + 2 * t) % expected.size();
                if (product(shared, batches[i / 3], precisions[i % 3]) != expected[i]) {
                    ++failures[t];
                }
            }
        });
    }
    for (std::thread& thread : threads) thread.join();
    EXPECT_EQ(failures, std::vector<int>(failures.size()));
}

TERSOR_ON_EVERY_ISA(Concurrency);

}  // namespace
}  // namespace tersor
