// Memory on cache-line boundaries for vector loads that need no tail handling.
#pragma once

#include <cstddef>
#include <cstring>
#include <memory>
#include <span>
#include <type_traits>
#include <utility>

namespace tersor::support {

inline constexpr std::size_t cache_line = 64;

/// What a processor maps at once where the operating system can give it so much in one piece.
inline constexpr std::size_t huge_page = std::size_t{2} << 20;

/// Whether memory begins as zeros, or as whatever was there.
enum class Fill : bool { zeros, none };

/// Memory that begins with a huge page, where the system can. Throws std::bad_alloc.
[[nodiscard]] void* allocate_huge_pages(std::size_t bytes);
void free_huge_pages(void* memory, std::size_t bytes) noexcept;

/// Memory of `bytes` bytes, a multiple of a cache line: in huge pages but for the smallest blocks.
/// Throws std::bad_alloc.
[[nodiscard]] void* allocate_aligned(std::size_t bytes);
void free_aligned(void* memory, std::size_t bytes) noexcept;
/// Gives what is behind the first `kept` bytes back, as far as that is possible; returns the bytes
/// that are left to free. `kept` is a multiple of a cache line.
[[nodiscard]] std::size_t shrink_aligned(void* memory, std::size_t bytes,
                                         std::size_t kept) noexcept;

/// Throws std::bad_alloc: not where it is called from, as that takes more than the call.
[[noreturn]] void throw_bad_alloc();

/// Has the system find pages for large memory now, rather than when each is first written to, for
/// which threads that write side by side wait on each other.
void populate_aligned(void* memory, std::size_t bytes) noexcept;

/// `size` elements, zeroed unless told otherwise, aligned to 64 bytes and padded to a multiple of
/// 64 bytes plus one cache line, so that a full vector may be read at any element.
template <class T>
class AlignedBuffer {
    static_assert(std::is_trivial_v<T>);

public:
    AlignedBuffer() noexcept = default;
    explicit AlignedBuffer(std::size_t size, Fill fill = Fill::zeros) : size_(size) {
        if (size > (SIZE_MAX - 2 * cache_line) / sizeof(T)) throw_bad_alloc();
        bytes_ = padded(size);
        data_ = Pointer(static_cast<T*>(allocate_aligned(bytes_)), Free{bytes_});
        if (fill == Fill::zeros) std::memset(static_cast<void*>(data_.get()), 0, bytes_);
    }

    /// Another size; what was there stays, and what comes to it is not filled. Growing moves all.
    /// Shrinking moves nothing and gives back what is behind the end.
    void resize(std::size_t size) {
        if (size > size_ || data_ == nullptr) {
            AlignedBuffer larger(size, Fill::none);
            if (size_ > 0) std::memcpy(larger.data(), data(), size_ * sizeof(T));
            *this = std::move(larger);
            return;
        }
        Free& freeing = data_.get_deleter();
        bytes_ = padded(size);
        freeing.allocated = shrink_aligned(data_.get(), freeing.allocated, bytes_);
        size_ = size;
    }

    /// Before threads write to it side by side.
    void populate() noexcept { populate_aligned(data_.get(), data_.get_deleter().allocated); }

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
        std::size_t allocated = 0;
        void operator()(T* p) const noexcept { free_aligned(p, allocated); }
    };
    using Pointer = std::unique_ptr<T, Free>;

    [[nodiscard]] static std::size_t padded(std::size_t size) noexcept {
        return (size * sizeof(T) + 2 * cache_line - 1) / cache_line * cache_line;
    }

    Pointer data_;
    std::size_t size_ = 0;
    std::size_t bytes_ = 0;
};

}  // namespace tersor::support
