// Who runs the threads. The library starts none of its own: it borrows torch's pool, or OpenMP's,
// or the caller's, and otherwise works serially.
#pragma once

#include <cstddef>
#include <string_view>
#include <type_traits>

namespace tersor {

/// The work on one sub-range [begin, end).
using RangeFunction = void (*)(void* context, std::size_t begin, std::size_t end) noexcept;

/// Calls `function` on disjoint sub-ranges that cover [0, count), with at most `threads` at a time,
/// each sub-range a multiple of `grain` (but for the last), and returns when all are done.
using ParallelRunner = void (*)(std::size_t count, std::size_t grain, int threads,
                                RangeFunction function, void* context);

/// Makes the C++ user's own pool run all parallel work; nullptr goes back to the automatic choice.
void set_parallel_runner(ParallelRunner runner) noexcept;

/// "torch", "openmp", "custom" or "serial": who would run parallel work now.
[[nodiscard]] std::string_view parallel_runner_name() noexcept;

/// Runs `function(begin, end)` over [0, count); serial when `threads` <= 1, when the range is no
/// longer than one grain, and in a process forked after the library was loaded.
void parallel_for(std::size_t count, std::size_t grain, int threads, RangeFunction function,
                  void* context);

template <class Function>
void parallel_for(std::size_t count, std::size_t grain, int threads, const Function& function) {
    static_assert(std::is_nothrow_invocable_v<const Function&, std::size_t, std::size_t>);
    parallel_for(
        count, grain, threads,
        [](void* context, std::size_t begin, std::size_t end) noexcept {
            (*static_cast<const Function*>(context))(begin, end);
        },
        const_cast<void*>(static_cast<const void*>(&function)));
}

}  // namespace tersor
