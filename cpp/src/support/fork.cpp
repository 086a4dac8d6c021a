#include "support/fork.hpp"

#include <atomic>

#if defined(__unix__) || defined(__APPLE__)
#include <pthread.h>
#endif

namespace tersor::support {
namespace {

std::atomic<unsigned> generation{0};

#if defined(__unix__) || defined(__APPLE__)
[[maybe_unused]] const int handler_registered =
    pthread_atfork(nullptr, nullptr, [] { generation.fetch_add(1, std::memory_order_relaxed); });
#endif

}  // namespace

unsigned fork_generation() noexcept { return generation.load(std::memory_order_relaxed); }

}  // namespace tersor::support
