#include "support/aligned_buffer.hpp"

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace tersor::support {
namespace {

std::align_val_t alignment_of(std::size_t bytes) noexcept {
    return std::align_val_t{bytes >= huge_page ? huge_page : cache_line};
}

}  // namespace

void* allocate_aligned(std::size_t bytes) {
    void* const memory = ::operator new(bytes, alignment_of(bytes));
#if defined(__linux__)
    // Fewer misses in the address translation while a large layout streams through. A wish: whether
    // it is granted changes nothing else.
    if (bytes >= huge_page) madvise(memory, bytes / huge_page * huge_page, MADV_HUGEPAGE);
#endif
    return memory;
}

void free_aligned(void* memory, std::size_t bytes) noexcept {
    ::operator delete(memory, alignment_of(bytes));
}

void give_back_after([[maybe_unused]] void* memory, [[maybe_unused]] std::size_t bytes,
                     [[maybe_unused]] std::size_t kept) noexcept {
#if defined(__linux__)
    constexpr std::size_t page = 4096;
    const std::size_t first = (kept + page - 1) / page * page;
    if (bytes >= huge_page && first + page <= bytes) {
        madvise(static_cast<char*>(memory) + first, (bytes - first) / page * page, MADV_DONTNEED);
    }
#endif
}

}  // namespace tersor::support
