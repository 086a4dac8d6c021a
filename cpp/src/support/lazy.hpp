// A value that is made when it is first asked for, by whichever thread asks first; the others wait.
// There is no lock: in the child of a fork, one that another thread held would never be released.
#pragma once

#include <atomic>
#include <memory>
#include <utility>

#include "support/fork.hpp"

namespace tersor::support {

template <class T>
class Lazy {
public:
    /// The value, made by `make()` (which returns a T) unless it is there. What that throws goes to
    /// the thread that called it, and another makes the value.
    template <class Make>
    const T& get(const Make& make) const {
        if (const T* value = peek()) return *value;
        begin_making();
        try {
            if (peek() == nullptr) set(std::make_shared<const T>(make()));
        } catch (...) {
            end_making();
            throw;
        }
        end_making();
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
    static constexpr int nobody = -1;

    /// Waits until no thread makes the value. One that did before a fork will never end.
    void begin_making() const noexcept {
        const int self = static_cast<int>(fork_generation());
        int maker = nobody;
        while (!maker_.compare_exchange_weak(maker, self, std::memory_order_acquire)) {
            if (maker == self) {
                maker_.wait(maker, std::memory_order_relaxed);
                maker = nobody;
            }
        }
    }
    void end_making() const noexcept {
        maker_.store(nobody, std::memory_order_release);
        maker_.notify_all();
    }
    void set(std::shared_ptr<const T> value) const {
        value_ = std::move(value);
        ready_.store(value_.get(), std::memory_order_release);
    }

    mutable std::atomic<int> maker_{nobody};  // the generation of the thread that makes the value
    mutable std::shared_ptr<const T> value_;
    mutable std::atomic<const T*> ready_{nullptr};
};

}  // namespace tersor::support
