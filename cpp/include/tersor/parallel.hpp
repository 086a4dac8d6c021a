// Who runs the threads. The library starts none of its own: it borrows torch's pool, or OpenMP's,
// or the caller's, and otherwise works serially.
#pragma once

#include <cstddef>
#include <string_view>

namespace tersor {

/// The work on one sub-range [begin, end), as runners see it: what goes wrong stays inside.
using RangeFunction = void (*)(void* context, std::size_t begin, std::size_t end) noexcept;

/// Calls `function` on disjoint sub-ranges that cover [0, count), with at most `threads` at a time,
/// each sub-range a multiple of `grain` (but for the last), and returns when all are done.
using ParallelRunner = void (*)(std::size_t count, std::size_t grain, int threads,
                                RangeFunction function, void* context);

/// Makes the C++ user's own pool run all parallel work; nullptr goes back to the automatic choice.
void set_parallel_runner(ParallelRunner runner) noexcept;

/// "torch", "openmp", "custom" or "serial": who would run parallel work now.
[[nodiscard]] std::string_view parallel_runner_name() noexcept;

/// The work on one sub-range, which may throw.
using RangeBody = void (*)(const void* context, std::size_t begin, std::size_t end);

/// Runs `body` on disjoint sub-ranges that cover [0, count), on no more threads than there are
/// grains; serial when `threads` <= 1, when the range is no longer than one grain, and in a process
/// forked after the library was loaded. Where bodies throw, the others still come to their ends,
/// what has not begun is left out, and one of the exceptions is thrown again here. Throws
/// std::runtime_error when the pool that was borrowed left a part undone.
void parallel_for(std::size_t count, std::size_t grain, int threads, RangeBody body,
                  const void* context);

/// The same for anything that can be called as `function(begin, end)`.
template <class Function>
void parallel_for(std::size_t count, std::size_t grain, int threads, const Function& function) {
    parallel_for(
        count, grain, threads,
        [](const void* context, std::size_t begin, std::size_t end) {
            (*static_cast<const Function*>(context))(begin, end);
        },
        static_cast<const void*>(&function));
}

}  // namespace tersor
