#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <new>
#include <stdexcept>
#include <string>
#include <vector>

#include "tersor/parallel.hpp"

namespace tersor {
namespace {

std::vector<int> visits(std::size_t count, std::size_t grain, int threads) {
    std::vector<std::atomic<int>> seen(count);
    std::atomic<bool> aligned{true};
    parallel_for(count, grain, threads, [&](std::size_t begin, std::size_t end) noexcept {
        if (begin % grain != 0) aligned = false;
        for (std::size_t i = begin; i < end; ++i) ++seen[i];
    });
    EXPECT_TRUE(aligned);
    return {seen.begin(), seen.end()};
}

TEST(ParallelFor, VisitsEveryElementOnce) {
    for (const std::size_t count : {1, 7, 64, 1000}) {
        for (const std::size_t grain : {1, 3, 64, 2000}) {
            for (const int threads : {0, 1, 2, 5}) {
                EXPECT_EQ(visits(count, grain, threads), std::vector<int>(count, 1))
                    << count << ' ' << grain << ' ' << threads;
            }
        }
    }
}

TEST(ParallelFor, EmptyRangeRunsNothing) {
    bool called = false;
    parallel_for(0, 1, 4, [&](std::size_t, std::size_t) noexcept { called = true; });
    EXPECT_FALSE(called);
}

TEST(ParallelFor, CustomRunnerIsUsedAndGivenBack) {
    static int calls = 0;
    set_parallel_runner([](std::size_t count, std::size_t, int, RangeFunction f, void* context) {
        ++calls;
        f(context, 0, count);
    });
    EXPECT_EQ(parallel_runner_name(), "custom");
    EXPECT_EQ(visits(100, 1, 2), std::vector<int>(100, 1));
    EXPECT_EQ(calls, 1);
    EXPECT_EQ(visits(100, 1, 1), std::vector<int>(100, 1));  // serial needs no runner
    EXPECT_EQ(calls, 1);
    set_parallel_runner(nullptr);
    EXPECT_NE(parallel_runner_name(), "custom");
}

TEST(ParallelFor, ThrowsWhatABodyThrows) {
    for (const int threads : {1, 2, 5}) {
        for (const std::size_t grain : {1, 7, 200}) {
            std::atomic<int> begun{0};
            const auto run = [&] {
                parallel_for(100, grain, threads, [&](std::size_t begin, std::size_t end) {
                    ++begun;
                    if (begin <= 50 && 50 < end) throw std::out_of_range("fifty");
                });
            };
            try {
                run();
                ADD_FAILURE() << "nothing was thrown";
            } catch (const std::out_of_range& error) {
                EXPECT_STREQ(error.what(), "fifty");
            }
            EXPECT_GT(begun, 0);
            EXPECT_EQ(visits(100, grain, threads), std::vector<int>(100, 1));  // works again
        }
    }
}

TEST(ParallelFor, LeavesOutWhatHasNotBegunWhenABodyFails) {
    set_parallel_runner([](std::size_t count, std::size_t, int, RangeFunction f, void* context) {
        for (std::size_t i = 0; i < count; ++i) f(context, i, i + 1);
    });
    int begun = 0;
    EXPECT_THROW(parallel_for(100, 1, 2,
                              [&](std::size_t, std::size_t) {
                                  ++begun;
                                  throw std::bad_alloc();
                              }),
                 std::bad_alloc);
    EXPECT_EQ(begun, 1);
    set_parallel_runner(nullptr);
}

TEST(ParallelFor, WhatARunnerLeavesUndoneIsAnError) {
    set_parallel_runner([](std::size_t count, std::size_t, int, RangeFunction f, void* context) {
        f(context, 0, count / 2);
    });
    try {
        parallel_for(100, 1, 2, [](std::size_t, std::size_t) {});
        ADD_FAILURE() << "nothing was thrown";
    } catch (const std::runtime_error& error) {
        const std::string what = error.what();
        EXPECT_NE(what.find("50 of 100"), std::string::npos) << what;
        EXPECT_NE(what.find("custom"), std::string::npos) << what;
    }
    set_parallel_runner(nullptr);
}

TEST(ParallelFor, AsksForNoMoreThreadsThanThereAreGrains) {
    static int asked = 0;
    set_parallel_runner(
        [](std::size_t count, std::size_t, int threads, RangeFunction f, void* context) {
            asked = threads;
            f(context, 0, count);
        });
    parallel_for(100, 25, 10'000'000, [](std::size_t, std::size_t) {});
    EXPECT_EQ(asked, 4);
    set_parallel_runner(nullptr);
    EXPECT_EQ(visits(100'000, 1, 10'000'000), std::vector<int>(100'000, 1));
}

TEST(ParallelFor, IsSerialAfterAFork) {
    (void)visits(100, 1, 2);  // the parent's pool exists
    const pid_t child = fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
        const bool good =
            parallel_runner_name() == "serial" && visits(100, 1, 2) == std::vector<int>(100, 1);
        _exit(good ? 0 : 1);
    }
    int status = 0;
    ASSERT_EQ(waitpid(child, &status, 0), child);
    EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

}  // namespace
}  // namespace tersor
