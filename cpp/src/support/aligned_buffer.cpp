#include "support/aligned_buffer.hpp"

#include "support/shared_pages.hpp"

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace tersor::support {
namespace {

constexpr std::size_t page = 4096;

/// From here on the last huge page, which is the block's own, is small beside the others.
constexpr std::size_t own_pages_from = 8 * huge_page;

#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#define TERSOR_ADDRESS_SANITIZER 1
#endif
#elif defined(__SANITIZE_ADDRESS__)
#define TERSOR_ADDRESS_SANITIZER 1
#endif

/// Whether a block lies beside others in huge pages.
bool is_shared([[maybe_unused]] std::size_t bytes) noexcept {
#if defined(__linux__) && !defined(TERSOR_ADDRESS_SANITIZER)
    return bytes >= page && bytes < own_pages_from;
#else
    // The sanitizer has to see each block's ends.
    return false;
#endif
}

}  // namespace

void* allocate_huge_pages(std::size_t bytes) {
    void* const memory = ::operator new(bytes, std::align_val_t{huge_page});
#if defined(__linux__)
    // Fewer misses in the address translation while a large layout streams through. A wish: whether
    // it is granted changes nothing else.
    madvise(memory, bytes / huge_page * huge_page, MADV_HUGEPAGE);
#endif
    return memory;
}

void free_huge_pages(void* memory) noexcept {
    ::operator delete(memory, std::align_val_t{huge_page});
}

void* allocate_aligned(std::size_t bytes) {
    if (is_shared(bytes)) return shared_pages().take(bytes);
    if (bytes >= own_pages_from) return allocate_huge_pages(bytes);
    return ::operator new(bytes, std::align_val_t{cache_line});
}

void free_aligned(void* memory, std::size_t bytes) noexcept {
    if (is_shared(bytes)) return shared_pages().give(memory, bytes);
    if (bytes >= own_pages_from) return free_huge_pages(memory);
    ::operator delete(memory, std::align_val_t{cache_line});
}

std::size_t shrink_aligned(void* memory, std::size_t bytes, std::size_t kept) noexcept {
    char* const start = static_cast<char*>(memory);
    if (is_shared(bytes) && is_shared(kept) && kept < bytes) {
        shared_pages().give(start + kept, bytes - kept);
        return kept;
    }
#if defined(__linux__)
    const std::size_t first = (kept + page - 1) / page * page;
    if (bytes >= own_pages_from && first + page <= bytes) {
        madvise(start + first, (bytes - first) / page * page, MADV_DONTNEED);
    }
#endif
    return bytes;
}

}  // namespace tersor::support
