#include "support/scratch.hpp"

#include <algorithm>
#include <cstdint>

#include "support/every_block_alone.hpp"

namespace tersor::support {
namespace {

/// A thread's memory, of which the first `used` bytes are taken.
class Stack {
public:
    Stack() noexcept = default;
    Stack(const Stack&) = delete;
    Stack& operator=(const Stack&) = delete;
    ~Stack() { release(); }

    void* take(std::size_t bytes) {
        if (taken_ == 0) grow();
        wanted_ = std::max(wanted_, taken_ + bytes);
        void* const memory = bytes <= size_ - used_
                                 ? memory_ + used_
                                 : static_cast<std::byte*>(allocate_aligned(bytes));
        taken_ += bytes;
        if (holds(memory)) used_ += bytes;
        return memory;
    }

    void give(void* memory, std::size_t bytes) noexcept {
        taken_ -= bytes;
        if (holds(memory)) {
            used_ -= bytes;
        } else {
            free_aligned(memory, bytes);
        }
    }

private:
    [[nodiscard]] bool holds(const void* memory) const noexcept {
        const auto at = reinterpret_cast<std::uintptr_t>(memory);
        const auto begin = reinterpret_cast<std::uintptr_t>(memory_);
        return at >= begin && at < begin + size_;
    }

    /// To what earlier calls took together, while nothing is taken.
    void grow() {
        const std::size_t size = std::min(wanted_, most_kept);
        if (size <= size_) return;
        auto* const memory = static_cast<std::byte*>(allocate_aligned(size));
        release();
        memory_ = memory;
        size_ = size;
    }
    void release() noexcept {
        if (memory_ != nullptr) free_aligned(memory_, size_);
    }

    static constexpr std::size_t most_kept = every_block_alone ? 0 : most_scratch_kept;

    std::byte* memory_ = nullptr;
    std::size_t size_ = 0;
    std::size_t used_ = 0;    // of it
    std::size_t taken_ = 0;   // together with what did not fit
    std::size_t wanted_ = 0;  // the most that was taken at a time
};

Stack& stack() noexcept {
    thread_local Stack stack;
    return stack;
}

}  // namespace

void* take_scratch(std::size_t bytes) { return stack().take(bytes); }
void give_scratch(void* memory, std::size_t bytes) noexcept { stack().give(memory, bytes); }

}  // namespace tersor::support
