// Blocks smaller than a huge page, side by side in huge pages: a layer that comes from memory and
// not from a cache waits for the translation of each small page longer than for its bytes.
#pragma once

#include <cstddef>
#include <mutex>

namespace tersor::support {

/// Huge pages that are shared by blocks. Free memory is a list of gaps in the order of addresses,
/// which is kept in the gaps themselves; the first one that is large enough serves. Nothing else is
/// allocated, so that its lock is never held while one of the heap is taken.
class SharedPages {
public:
    constexpr SharedPages() noexcept = default;
    SharedPages(const SharedPages&) = delete;
    SharedPages& operator=(const SharedPages&) = delete;
    ~SharedPages();

    /// Blocks that begin at cache lines: `bytes` is a multiple of a line. Throws std::bad_alloc.
    [[nodiscard]] void* take(std::size_t bytes);
    void give(void* memory, std::size_t bytes) noexcept;

    /// Around a fork, so that no other thread is in the middle of something.
    void lock() noexcept { mutex_.lock(); }
    void unlock() noexcept { mutex_.unlock(); }

private:
    struct Gap {
        std::size_t bytes;
        Gap* next;
    };
    /// The first cache line of what is taken from the system together.
    struct Chunk {
        Chunk* next;
        Gap* first;
    };
    static void* take_from(Chunk& chunk, std::size_t bytes) noexcept;

    std::mutex mutex_;
    Chunk* chunks_ = nullptr;
};

/// Those of the process.
[[nodiscard]] SharedPages& shared_pages() noexcept;

}  // namespace tersor::support
