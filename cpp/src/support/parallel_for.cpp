// Borrowed threads: torch's pool where torch is loaded, else OpenMP's where its runtime can be
// loaded, else none. Both are found at run time, so that the library links neither: a second OpenMP
// runtime beside torch's would spin against it (milliseconds for each change between the two).
#include <atomic>
#include <cstdint>

#include "tersor/parallel.hpp"

#if defined(__unix__) || defined(__APPLE__)
#define TERSOR_POSIX 1
#include <dlfcn.h>
#include <pthread.h>
#if defined(__linux__)
#include <link.h>
#endif
#else
#define TERSOR_POSIX 0
#endif

namespace tersor {
namespace {

struct Work {
    RangeFunction function;
    void* context;
    std::size_t count;
    std::size_t grain;  // of a sub-range; sub-ranges start at multiples of it
};

std::size_t range_count(const Work& work) noexcept {
    return (work.count + work.grain - 1) / work.grain;
}

/// Runs the sub-ranges [first, last) as one.
void run_ranges(const Work& work, std::size_t first, std::size_t last) noexcept {
    const std::size_t end = last * work.grain;
    work.function(work.context, first * work.grain, end < work.count ? end : work.count);
}

std::atomic<ParallelRunner> custom_runner{nullptr};
std::atomic<bool> forked{false};

#if TERSOR_POSIX

// A pool's threads do not survive fork(), and asking a dead pool hangs.
[[maybe_unused]] const int fork_handler_registered =
    pthread_atfork(nullptr, nullptr, [] { forked.store(true, std::memory_order_relaxed); });

// torch/csrc/stable/c/shim.h, part of torch's stable ABI.
using TorchParallelFor = std::int32_t (*)(std::int64_t begin, std::int64_t end, std::int64_t grain,
                                          void (*)(std::int64_t, std::int64_t, void*), void*);
// The entry that GCC emits for `#pragma omp parallel`.
using OpenMpParallel = void (*)(void (*)(void*), void*, unsigned threads, unsigned flags);

void* symbol_of_loaded_library(const char* library, const char* symbol) noexcept {
    // The handle is kept open: the address has to stay valid.
    void* handle = dlopen(library, RTLD_LAZY | RTLD_NOLOAD);
    return handle != nullptr ? dlsym(handle, symbol) : nullptr;
}

/// Another number after a library was loaded; 0 where the system does not tell.
unsigned long long libraries_loaded() noexcept {
    unsigned long long count = 0;
#if defined(__linux__)
    dl_iterate_phdr(
        [](dl_phdr_info* info, std::size_t, void* to) {
            *static_cast<unsigned long long*>(to) = info->dlpi_adds;
            return 1;  // one call is enough
        },
        &count);
#endif
    return count;
}

TorchParallelFor torch_parallel_for() noexcept {
    // Asked until torch is there: it may be imported after this library. A search for what is not
    // loaded takes 30 microseconds, so only when something was loaded since the last.
    static std::atomic<TorchParallelFor> found{nullptr};
    static std::atomic<unsigned long long> searched{0};
    TorchParallelFor function = found.load(std::memory_order_acquire);
    if (function != nullptr) return function;
    const unsigned long long loaded = libraries_loaded();
    if (loaded != 0 && searched.load(std::memory_order_relaxed) == loaded) return nullptr;
    function = reinterpret_cast<TorchParallelFor>(
        symbol_of_loaded_library("libtorch_cpu.so", "torch_parallel_for"));
    found.store(function, std::memory_order_release);
    searched.store(loaded, std::memory_order_relaxed);
    return function;
}

OpenMpParallel openmp_parallel() noexcept {
    static const auto found = []() -> OpenMpParallel {
        void* handle = dlopen("libgomp.so.1", RTLD_LAZY);
        return handle != nullptr ? reinterpret_cast<OpenMpParallel>(dlsym(handle, "GOMP_parallel"))
                                 : nullptr;
    }();
    return found;
}

void run_on_torch(TorchParallelFor parallel, const Work& work, int threads) {
    // torch splits by its own thread count; a grain that makes no more than `threads` pieces obeys
    // the caller's.
    const auto ranges = static_cast<std::int64_t>(range_count(work));
    const std::int64_t grain = (ranges + threads - 1) / threads;
    parallel(
        0, ranges, grain,
        [](std::int64_t begin, std::int64_t end, void* context) {
            run_ranges(*static_cast<const Work*>(context), static_cast<std::size_t>(begin),
                       static_cast<std::size_t>(end));
        },
        const_cast<Work*>(&work));
}

void run_on_openmp(OpenMpParallel parallel, const Work& work, int threads) {
    struct Shared {
        const Work& work;
        std::atomic<std::size_t> next{0};
    } shared{work};
    parallel(
        [](void* context) {
            auto& s = *static_cast<Shared*>(context);
            const std::size_t ranges = range_count(s.work);
            for (std::size_t i; (i = s.next.fetch_add(1, std::memory_order_relaxed)) < ranges;) {
                run_ranges(s.work, i, i + 1);
            }
        },
        &shared, static_cast<unsigned>(threads), 0);
}

#endif

}  // namespace

void set_parallel_runner(ParallelRunner runner) noexcept {
    custom_runner.store(runner, std::memory_order_release);
}

std::string_view parallel_runner_name() noexcept {
    if (forked.load(std::memory_order_relaxed)) return "serial";
    if (custom_runner.load(std::memory_order_acquire) != nullptr) return "custom";
#if TERSOR_POSIX
    if (torch_parallel_for() != nullptr) return "torch";
    if (openmp_parallel() != nullptr) return "openmp";
#endif
    return "serial";
}

void parallel_for(std::size_t count, std::size_t grain, int threads, RangeFunction function,
                  void* context) {
    if (count == 0) return;
    const Work work{function, context, count, grain == 0 ? 1 : grain};
    if (threads > 1 && count > work.grain && !forked.load(std::memory_order_relaxed)) {
        if (const ParallelRunner runner = custom_runner.load(std::memory_order_acquire)) {
            runner(count, work.grain, threads, function, context);
            return;
        }
#if TERSOR_POSIX
        if (const TorchParallelFor parallel = torch_parallel_for()) {
            run_on_torch(parallel, work, threads);
            return;
        }
        if (const OpenMpParallel parallel = openmp_parallel()) {
            run_on_openmp(parallel, work, threads);
            return;
        }
#endif
    }
    function(context, 0, count);
}

}  // namespace tersor
