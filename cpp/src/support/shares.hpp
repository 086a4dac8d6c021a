// Tasks of unequal size for some threads.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <numeric>
#include <span>
#include <vector>

#include "tersor/parallel.hpp"

namespace tersor::support {

/// The numbers of the tasks by thread: the largest first, each for whom has least to do, which is
/// at most a third more than the best there can be (Graham 1969).
[[nodiscard]] inline std::vector<std::vector<std::size_t>> shares_of(
    std::span<const std::uint64_t> sizes, int threads) {
    const std::size_t most = static_cast<std::size_t>(std::max(threads, 1));
    const std::size_t count = std::min(std::max<std::size_t>(sizes.size(), 1), most);
    std::vector<std::size_t> order(sizes.size());
    std::iota(order.begin(), order.end(), std::size_t{0});
    std::ranges::stable_sort(order, std::greater<>(), [&](std::size_t i) { return sizes[i]; });
    std::vector<std::vector<std::size_t>> shares(count);
    std::vector<std::uint64_t> work(count, 0);
    for (const std::size_t task : order) {
        const auto least = static_cast<std::size_t>(std::ranges::min_element(work) - work.begin());
        shares[least].push_back(task);
        work[least] += sizes[task];
    }
    return shares;
}

/// Calls `function(task)` for each task, on `threads` threads.
template <class Function>
void for_each_task(std::span<const std::uint64_t> sizes, int threads, const Function& function) {
    const auto shares = shares_of(sizes, threads);
    parallel_for(shares.size(), 1, threads, [&](std::size_t begin, std::size_t end) {
        for (std::size_t s = begin; s < end; ++s) {
            for (const std::size_t task : shares[s]) function(task);
        }
    });
}

}  // namespace tersor::support
