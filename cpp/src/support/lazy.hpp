// A value that is made when it is first asked for, by whichever thread asks first; the others wait.
#pragma once

#include <atomic>
#include <memory>
#include <utility>

#include "support/fork_lock.hpp"

namespace tersor::support {

template <class T>
class Lazy {
public:
    /// The value, made by `make()` (which returns a T) unless it is there. What that throws goes to
    /// the thread that called it, and another makes the value.
    template <class Make>
    const T& get(const Make& make) const {
        if (const T* value = peek()) return *value;
        lock_.lock();
        try {
            if (peek() == nullptr) set(std::make_shared<const T>(make()));
        } catch (...) {
            lock_.unlock();
            throw;
        }
        lock_.unlock();
        return *value_;
    }

    /// The value if it is there.
    [[nodiscard]] const T* peek() const noexcept { return ready_.load(std::memory_order_acquire); }

    /// Makes `get` find this value. Only before the object is shared between threads.
    void put(T value) {
        if (peek() == nullptr) set(std::make_shared<const T>(std::move(value)));
    }

    /// Makes `get` find the other's value, if that is there. Only before the object is shared
    /// between threads.
    void share(const Lazy& other) {
        if (other.peek() != nullptr && peek() == nullptr) set(other.value_);
    }

private:
    void set(std::shared_ptr<const T> value) const {
        value_ = std::move(value);
        ready_.store(value_.get(), std::memory_order_release);
    }

    mutable ForkLock lock_;  // of the thread that makes the value
    mutable std::shared_ptr<const T> value_;
    mutable std::atomic<const T*> ready_{nullptr};
};

}  // namespace tersor::support
