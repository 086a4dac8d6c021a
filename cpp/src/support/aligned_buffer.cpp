#include "support/aligned_buffer.hpp"

#include <cstdint>
#include <new>

#include "support/every_block_alone.hpp"
#include "support/shared_pages.hpp"

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace tersor::support {
namespace {

/// A multiple of what any system has as a page.
[[maybe_unused]] constexpr std::size_t whole_pages(std::size_t bytes) noexcept {
    constexpr std::size_t page = std::size_t{64} << 10;
    return (bytes + page - 1) / page * page;
}

#if defined(__linux__)
/// Sizes of blocks that lie beside others in huge pages, in bytes.
constexpr std::size_t shared_from = every_block_alone ? SIZE_MAX : 4096;
/// From here on the last huge page, which is the block's own, is small beside the others.
constexpr std::size_t own_pages_from = every_block_alone ? SIZE_MAX : 8 * huge_page;
#else
// Elsewhere nothing is known to be gained.
constexpr std::size_t shared_from = SIZE_MAX;
constexpr std::size_t own_pages_from = SIZE_MAX;
#endif

bool is_shared(std::size_t bytes) noexcept {
    return bytes >= shared_from && bytes < own_pages_from;
}

}  // namespace

void throw_bad_alloc() { throw std::bad_alloc(); }

void* allocate_huge_pages(std::size_t bytes) {
#if defined(__linux__)
    if (bytes > SIZE_MAX - 2 * huge_page) throw_bad_alloc();
    // Not from the heap, which gives what it had before, in small pages.
    const std::size_t size = whole_pages(bytes);
    void* const mapped =
        mmap(nullptr, size + huge_page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (mapped == MAP_FAILED) throw_bad_alloc();
    char* const start = static_cast<char*>(mapped);
    const std::size_t before =
        (huge_page - reinterpret_cast<std::uintptr_t>(start) % huge_page) % huge_page;
    if (before > 0) munmap(start, before);
    munmap(start + before + size, huge_page - before);
    // Fewer misses in the address translation while a large layout streams through. A wish: whether
    // it is granted changes nothing else.
    madvise(start + before, size, MADV_HUGEPAGE);
    return start + before;
#else
    return ::operator new(bytes, std::align_val_t{huge_page});
#endif
}

void free_huge_pages(void* memory, [[maybe_unused]] std::size_t bytes) noexcept {
#if defined(__linux__)
    munmap(memory, whole_pages(bytes));
#else
    ::operator delete(memory, std::align_val_t{huge_page});
#endif
}

void* allocate_aligned(std::size_t bytes) {
    if (is_shared(bytes)) return shared_pages().take(bytes);
    if (bytes >= own_pages_from) return allocate_huge_pages(bytes);
    return ::operator new(bytes, std::align_val_t{cache_line});
}

void free_aligned(void* memory, std::size_t bytes) noexcept {
    if (is_shared(bytes)) return shared_pages().give(memory, bytes);
    if (bytes >= own_pages_from) return free_huge_pages(memory, bytes);
    ::operator delete(memory, std::align_val_t{cache_line});
}

std::size_t shrink_aligned(void* memory, std::size_t bytes, std::size_t kept) noexcept {
    char* const start = static_cast<char*>(memory);
    if (is_shared(bytes) && is_shared(kept) && kept < bytes) {
        shared_pages().give(start + kept, bytes - kept);
        return kept;
    }
#if defined(__linux__)
    const std::size_t first = whole_pages(kept);
    if (bytes >= own_pages_from && first < bytes) {
        madvise(start + first, whole_pages(bytes) - first, MADV_DONTNEED);
    }
#endif
    return bytes;
}

void populate_aligned([[maybe_unused]] void* memory, [[maybe_unused]] std::size_t bytes) noexcept {
#if defined(__linux__) && defined(MADV_POPULATE_WRITE)
    if (bytes >= own_pages_from) madvise(memory, whole_pages(bytes), MADV_POPULATE_WRITE);
#endif
}

}  // namespace tersor::support
