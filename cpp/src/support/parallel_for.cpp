// Borrowed threads: torch's pool where torch is loaded, else OpenMP's where its runtime can be
// loaded, else none. Both are found at run time, so that the library links neither: a second OpenMP
// runtime beside torch's would spin against it (milliseconds for each change between the two).
#include "tersor/parallel.hpp"

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <exception>
#include <stdexcept>
#include <string>
#include <thread>

#include "support/fork.hpp"
#include "support/loaded_library.hpp"

#if TERSOR_POSIX
#include <dlfcn.h>
#endif

namespace tersor {
namespace {

/// One call of parallel_for, whose sub-ranges come back from threads of somebody else.
class Work {
public:
    Work(std::size_t count, std::size_t grain, RangeBody body, const void* context) noexcept
        : body_(body), context_(context), count_(count), grain_(grain) {}

    /// Sub-ranges start at multiples of the grain.
    [[nodiscard]] std::size_t ranges() const noexcept { return (count_ + grain_ - 1) / grain_; }

    /// Runs the sub-ranges [first, last) as one.
    void run_ranges(std::size_t first, std::size_t last) noexcept {
        run(first * grain_, std::min(last * grain_, count_));
    }

    /// Runs a sub-range unless another has failed: no exception may cross a borrowed pool.
    void run(std::size_t begin, std::size_t end) noexcept {
        if (!failed_.load(std::memory_order_relaxed)) {
            try {
                body_(context_, begin, end);
            } catch (...) {
                // Whoever was first; the join makes it visible to the caller.
                if (!failed_.exchange(true)) error_ = std::current_exception();
            }
        }
        done_.fetch_add(end - begin, std::memory_order_relaxed);
    }

    /// After the join.
    void rethrow() const {
        if (error_ != nullptr) std::rethrow_exception(error_);
        const std::size_t done = done_.load(std::memory_order_relaxed);
        if (done == count_) return;
        throw std::runtime_error("parallel_for: the borrowed threads (" +
                                 std::string(parallel_runner_name()) + ") ran " +
                                 std::to_string(done) + " of " + std::to_string(count_) +
                                 " elements; the results are not complete");
    }

private:
    RangeBody body_;
    const void* context_;
    std::size_t count_;
    std::size_t grain_;
    std::atomic<std::size_t> done_{0};
    std::atomic<bool> failed_{false};
    std::exception_ptr error_;
};

std::atomic<ParallelRunner> custom_runner{nullptr};

// A pool's threads do not survive fork(), and asking a dead pool hangs.
bool forked() noexcept { return support::fork_generation() != 0; }

#if TERSOR_POSIX

// torch/csrc/stable/c/shim.h, part of torch's stable ABI. What it returns need not be looked at:
// where it fails, the work is not done.
using TorchParallelFor = std::int32_t (*)(std::int64_t begin, std::int64_t end, std::int64_t grain,
                                          void (*)(std::int64_t, std::int64_t, void*), void*);
// The entry that GCC emits for `#pragma omp parallel`.
using OpenMpParallel = void (*)(void (*)(void*), void*, unsigned threads, unsigned flags);

TorchParallelFor torch_parallel_for() noexcept {
    // Asked until torch is there: it may be imported after this library. A search for what is not
    // loaded takes 30 microseconds, so only when something was loaded since the last.
    static std::atomic<TorchParallelFor> found{nullptr};
    static std::atomic<unsigned long long> searched{0};
    TorchParallelFor function = found.load(std::memory_order_acquire);
    if (function != nullptr) return function;
    const unsigned long long loaded = support::libraries_loaded();
    if (searched.load(std::memory_order_relaxed) == loaded) return nullptr;
    function = reinterpret_cast<TorchParallelFor>(
        support::symbol_of_loaded_library(support::torch_library, "torch_parallel_for"));
    found.store(function, std::memory_order_release);
    searched.store(loaded, std::memory_order_relaxed);
    return function;
}

OpenMpParallel openmp_parallel() noexcept {
    static const auto found = []() -> OpenMpParallel {
        void* handle = dlopen(support::openmp_library, RTLD_LAZY);
        return handle != nullptr ? reinterpret_cast<OpenMpParallel>(dlsym(handle, "GOMP_parallel"))
                                 : nullptr;
    }();
    return found;
}

void run_on_torch(TorchParallelFor parallel, Work& work, int threads) {
    // torch splits by its own thread count; a grain that makes no more than `threads` pieces obeys
    // the caller's.
    const auto ranges = static_cast<std::int64_t>(work.ranges());
    const std::int64_t grain = (ranges + threads - 1) / threads;
    parallel(
        0, ranges, grain,
        [](std::int64_t begin, std::int64_t end, void* context) {
            static_cast<Work*>(context)->run_ranges(static_cast<std::size_t>(begin),
                                                    static_cast<std::size_t>(end));
        },
        &work);
}

/// OpenMP starts as many threads as it is asked for, and ends the process where it cannot.
unsigned openmp_threads(int threads) noexcept {
    static const unsigned processors = std::max(std::thread::hardware_concurrency(), 1U);
    return std::min(static_cast<unsigned>(threads), processors);
}

void run_on_openmp(OpenMpParallel parallel, Work& work, int threads) {
    struct Shared {
        Work& work;
        std::atomic<std::size_t> next{0};
    } shared{work};
    parallel(
        [](void* context) {
            auto& s = *static_cast<Shared*>(context);
            const std::size_t ranges = s.work.ranges();
            for (std::size_t i; (i = s.next.fetch_add(1, std::memory_order_relaxed)) < ranges;) {
                s.work.run_ranges(i, i + 1);
            }
        },
        &shared, openmp_threads(threads), 0);
}

#endif

/// Whether somebody's threads ran the work.
bool run_on_borrowed_threads(Work& work, std::size_t count, std::size_t grain, int threads) {
    if (const ParallelRunner runner = custom_runner.load(std::memory_order_acquire)) {
        runner(
            count, grain, threads,
            [](void* context, std::size_t begin, std::size_t end) noexcept {
                static_cast<Work*>(context)->run(begin, end);
            },
            &work);
        return true;
    }
#if TERSOR_POSIX
    if (const TorchParallelFor parallel = torch_parallel_for()) {
        run_on_torch(parallel, work, threads);
        return true;
    }
    if (const OpenMpParallel parallel = openmp_parallel()) {
        run_on_openmp(parallel, work, threads);
        return true;
    }
#endif
    return false;
}

}  // namespace

void set_parallel_runner(ParallelRunner runner) noexcept {
    custom_runner.store(runner, std::memory_order_release);
}

std::string_view parallel_runner_name() noexcept {
    if (forked()) return "serial";
    if (custom_runner.load(std::memory_order_acquire) != nullptr) return "custom";
#if TERSOR_POSIX
    if (torch_parallel_for() != nullptr) return "torch";
    if (openmp_parallel() != nullptr) return "openmp";
#endif
    return "serial";
}

void parallel_for(std::size_t count, std::size_t grain, int threads, RangeBody body,
                  const void* context) {
    if (count == 0) return;
    grain = std::max<std::size_t>(grain, 1);
    if (threads > 1 && count > grain && !forked()) {
        Work work(count, grain, body, context);
        const std::size_t useful = std::min(work.ranges(), static_cast<std::size_t>(threads));
        if (run_on_borrowed_threads(work, count, grain, static_cast<int>(useful))) {
            work.rethrow();
            return;
        }
    }
    body(context, 0, count);
}

}  // namespace tersor
