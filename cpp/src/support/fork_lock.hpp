// A lock that a fork cannot leave closed: what a thread of the parent held, a child takes over.
#pragma once

#include <atomic>

#include "support/fork.hpp"

namespace tersor::support {

class ForkLock {
public:
    /// Waits until no thread holds the lock. One that did before a fork never gives it back.
    /// Returns whether it was taken from such a one, which may have left its work half done.
    bool lock() noexcept {
        const int self = static_cast<int>(fork_generation());
        int holder = nobody;
        while (!holder_.compare_exchange_weak(holder, self, std::memory_order_acquire)) {
            if (holder == self) {
                holder_.wait(holder, std::memory_order_relaxed);
                holder = nobody;
            }
        }
        return holder != nobody;
    }
    void unlock() noexcept {
        holder_.store(nobody, std::memory_order_release);
        holder_.notify_all();
    }

private:
    static constexpr int nobody = -1;

    std::atomic<int> holder_{nobody};  // the generation of the thread that holds it
};

}  // namespace tersor::support
