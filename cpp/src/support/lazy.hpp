// A value that is made when it is first asked for, by whichever thread asks first.
#pragma once

#include <atomic>
#include <memory>
#include <mutex>
#include <utility>

namespace tersor::support {

template <class T>
class Lazy {
public:
    /// The value, made by `make()` (which returns a T) unless it is there.
    template <class Make>
    const T& get(const Make& make) const {
        if (const T* value = peek()) return *value;
        const std::lock_guard making(mutex_);
        if (peek() == nullptr) set(std::make_shared<const T>(make()));
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

    mutable std::mutex mutex_;
    mutable std::shared_ptr<const T> value_;
    mutable std::atomic<const T*> ready_{nullptr};
};

}  // namespace tersor::support
