#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>
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
