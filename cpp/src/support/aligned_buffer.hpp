// Zeroed memory on cache-line boundaries for vector loads that need no tail handling.
#pragma once

#include <cstddef>
#include <cstring>
#include <memory>
#include <new>
#include <span>
#include <type_traits>

namespace tersor::support {

inline constexpr std::size_t cache_line = 64;

/// `size` elements, zeroed, aligned to 64 bytes and padded with zeros to a multiple of 64 bytes
/// plus one cache line, so that a full vector may be read at any element.
template <class T>
class AlignedBuffer {
    static_assert(std::is_trivial_v<T>);

public:
    AlignedBuffer() noexcept = default;
    explicit AlignedBuffer(std::size_t size) : size_(size) {
        if (size > (SIZE_MAX - 2 * cache_line) / sizeof(T)) throw std::bad_alloc();
        bytes_ = (size * sizeof(T) + 2 * cache_line - 1) / cache_line * cache_line;
        data_.reset(static_cast<T*>(::operator new(bytes_, std::align_val_t{cache_line})));
        std::memset(static_cast<void*>(data_.get()), 0, bytes_);
    }

    [[nodiscard]] T* data() noexcept { return data_.get(); }
    [[nodiscard]] const T* data() const noexcept { return data_.get(); }
    [[nodiscard]] std::size_t size() const noexcept { return size_; }
    /// Memory held, padding included.
    [[nodiscard]] std::size_t nbytes() const noexcept { return bytes_; }
    [[nodiscard]] T& operator[](std::size_t i) noexcept { return data_.get()[i]; }
    [[nodiscard]] const T& operator[](std::size_t i) const noexcept { return data_.get()[i]; }
    [[nodiscard]] operator std::span<const T>() const noexcept { return {data(), size_}; }
    [[nodiscard]] operator std::span<T>() noexcept { return {data(), size_}; }

private:
    struct Free {
        void operator()(T* p) const noexcept { ::operator delete(p, std::align_val_t{cache_line}); }
    };
    std::unique_ptr<T, Free> data_;
    std::size_t size_ = 0;
    std::size_t bytes_ = 0;
};

}  // namespace tersor::support
