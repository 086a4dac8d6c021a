// Memory that a thread works in during a call: not filled, and kept for its next calls, so that
// products of a few microseconds neither wait for each other's locks nor for pages.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <type_traits>

#include "support/aligned_buffer.hpp"

namespace tersor::support {

/// What a thread keeps between calls, at most.
inline constexpr std::size_t most_scratch_kept = std::size_t{8} << 20;

/// Memory of the calling thread, which gives it back, last taken first. `bytes` is a multiple of a
/// cache line. Throws std::bad_alloc.
[[nodiscard]] void* take_scratch(std::size_t bytes);
void give_scratch(void* memory, std::size_t bytes) noexcept;

/// `size` elements that hold whatever was there, for as long as a scope of one thread; aligned and
/// padded as an AlignedBuffer.
template <class T>
class Scratch {
    static_assert(std::is_trivially_copyable_v<T> && std::is_trivially_destructible_v<T>);

public:
    explicit Scratch(std::size_t size) : size_(size), bytes_(padded(size)) {
        data_ = static_cast<T*>(take_scratch(bytes_));
    }
    Scratch(const Scratch&) = delete;
    Scratch& operator=(const Scratch&) = delete;
    ~Scratch() { give_scratch(data_, bytes_); }

    [[nodiscard]] T* data() const noexcept { return data_; }
    [[nodiscard]] std::size_t size() const noexcept { return size_; }
    [[nodiscard]] T& operator[](std::size_t i) const noexcept { return data_[i]; }
    [[nodiscard]] operator std::span<T>() const noexcept { return {data_, size_}; }

private:
    [[nodiscard]] static std::size_t padded(std::size_t size) {
        if (size > (SIZE_MAX - 2 * cache_line) / sizeof(T)) throw_bad_alloc();
        return (size * sizeof(T) + 2 * cache_line - 1) / cache_line * cache_line;
    }

    std::size_t size_;
    std::size_t bytes_;
    T* data_;
};

}  // namespace tersor::support
