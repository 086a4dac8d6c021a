// A process that forks while its threads pack and multiply: the child, which has one thread and the
// memory of all, goes on working. Where a lock was left behind it waits for ever.
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <functional>
#include <latch>
#include <memory>
#include <thread>
#include <utility>
#include <vector>

#include "spmm_problem.hpp"
#include "support/every_block_alone.hpp"
#include "support/fork.hpp"
#include "support/lazy.hpp"
#include "support/shared_pages.hpp"
#include "tersor/spmm.hpp"

namespace tersor {
namespace {

/// Whether `good` holds in a child.
bool in_child(const std::function<bool()>& good) {
    const pid_t child = fork();
    if (child == 0) _exit(good() ? 0 : 1);
    int status = 0;
    return child > 0 && waitpid(child, &status, 0) == child && WIFEXITED(status) &&
           WEXITSTATUS(status) == 0;
}

/// Threads that do the same over and over until they are destroyed.
class Busy {
public:
    Busy(int threads, const std::function<void()>& work) {
        for (int t = 0; t < threads; ++t) {
            threads_.emplace_back([this, work] {
                while (!done_) work();
            });
        }
    }
    ~Busy() {
        done_ = true;
        for (std::thread& thread : threads_) thread.join();
    }

private:
    std::atomic<bool> done_{false};
    std::vector<std::thread> threads_;
};

TEST(Fork, ForksAreCounted) {
    const unsigned before = support::fork_generation();
    EXPECT_TRUE(in_child([&] { return support::fork_generation() == before + 1; }));
    EXPECT_EQ(support::fork_generation(), before);
}

TEST(Fork, AChildMakesWhatAThreadOfItsParentWasMaking) {
    const support::Lazy<int> lazy;
    std::latch begun(1), finish(1);
    std::thread maker([&] {
        static_cast<void>(lazy.get([&] {
            begun.count_down();
            finish.wait();
            return 1;
        }));
    });
    begun.wait();
    EXPECT_TRUE(in_child([&] { return lazy.get([] { return 2; }) == 2; }));
    finish.count_down();
    maker.join();
    EXPECT_EQ(lazy.get([] { return 3; }), 1);
}

TEST(Fork, WhatCannotBeMadeIsMadeByTheNext) {
    const support::Lazy<int> lazy;
    EXPECT_THROW(static_cast<void>(lazy.get([]() -> int { throw std::bad_alloc(); })),
                 std::bad_alloc);
    EXPECT_EQ(lazy.peek(), nullptr);
    EXPECT_EQ(lazy.get([] { return 2; }), 2);
}

TEST(Fork, AChildTakesSharedPages) {
    support::SharedPages& pages = support::shared_pages();
    const auto take_and_give = [&pages] {
        void* const first = pages.take(4096);
        void* const second = pages.take(8192);
        pages.give(first, 4096);
        pages.give(second, 8192);
    };
    const Busy busy(2, take_and_give);
    for (int i = 0; i < 200; ++i) {
        ASSERT_TRUE(in_child([&] {
            take_and_give();
            return true;
        }));
    }
}

TEST(Fork, AChildPacksAndMultiplies) {
    if (support::every_block_alone) {
        GTEST_SKIP() << "the sanitizer's heap has a lock that a child does not get back";
    }
    const test::Problem p = test::make_problem(300, 200, 0.2, 15, 1);
    const std::vector<float> x = test::random_x(std::size_t{70} * p.cols, 2);
    const auto product = [&](const PackedMatrix& packed, Precision precision) {
        std::vector<float> y(std::size_t{70} * p.rows);
        spmm::multiply(packed, x, 70, {}, y, precision, 2);
        return y;
    };
    const auto fresh = [&] {
        auto packed = std::make_shared<PackedMatrix>();
        EXPECT_TRUE(spmm::pack(p.csr, p.codebook, *packed, LayoutHint::vector, 2).ok());
        return std::shared_ptr<const PackedMatrix>(std::move(packed));
    };
    const std::vector<float> high = product(*fresh(), Precision::high);
    const std::vector<float> low = product(*fresh(), Precision::low);
    // Its second layouts are made by whoever comes first, again and again.
    std::atomic<std::shared_ptr<const PackedMatrix>> shared(fresh());
    const Busy busy(2, [&] {
        static_cast<void>(product(*shared.load(), Precision::high));
        static_cast<void>(product(*shared.load(), Precision::low));
        shared = fresh();
    });
    for (int i = 0; i < 50; ++i) {
        const std::shared_ptr<const PackedMatrix> packed = shared.load();
        ASSERT_TRUE(in_child([&] {
            return product(*packed, Precision::high) == high &&
                   product(*packed, Precision::low) == low &&
                   product(*fresh(), Precision::high) == high;
        }));
    }
}

}  // namespace
}  // namespace tersor
