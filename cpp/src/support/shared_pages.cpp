#include "support/shared_pages.hpp"

#include <functional>
#include <new>
#include <utility>

#include "support/aligned_buffer.hpp"

#if defined(__unix__) || defined(__APPLE__)
#include <pthread.h>
#endif

namespace tersor::support {
namespace {

/// Taken from the system together. What no block has touched yet costs nothing.
constexpr std::size_t chunk_bytes = 32 * huge_page;
constexpr std::size_t room = chunk_bytes - cache_line;

/// Puts `next` behind the gap, or into it where they touch.
template <class Gap>
void join(Gap* gap, Gap* next) noexcept {
    gap->next = next;
    if (next == nullptr ||
        reinterpret_cast<std::byte*>(gap) + gap->bytes != reinterpret_cast<std::byte*>(next)) {
        return;
    }
    gap->bytes += next->bytes;
    gap->next = next->next;
}

}  // namespace

SharedPages::~SharedPages() {
    while (chunks_ != nullptr) free_huge_pages(std::exchange(chunks_, chunks_->next), chunk_bytes);
}

void* SharedPages::take_from(Chunk& chunk, std::size_t bytes) noexcept {
    Gap** link = &chunk.first;
    while (*link != nullptr && (*link)->bytes < bytes) link = &(*link)->next;
    Gap* const gap = *link;
    if (gap == nullptr) return nullptr;
    *link = gap->next;
    if (gap->bytes > bytes) {
        const Gap remainder{gap->bytes - bytes, gap->next};
        *link = new (reinterpret_cast<std::byte*>(gap) + bytes) Gap(remainder);
    }
    return gap;
}

void* SharedPages::take(std::size_t bytes) {
    const std::lock_guard taking(mutex_);
    Chunk** link = &chunks_;
    for (; *link != nullptr; link = &(*link)->next) {
        if (void* const memory = take_from(**link, bytes)) return memory;
    }
    auto* const memory = static_cast<std::byte*>(allocate_huge_pages(chunk_bytes));
    *link = new (memory) Chunk{nullptr, new (memory + cache_line) Gap{room, nullptr}};
    return take_from(**link, bytes);
}

void SharedPages::give(void* memory, std::size_t bytes) noexcept {
    const std::lock_guard giving(mutex_);
    const std::less<const void*> before;
    const auto holds = [&](Chunk* chunk) {
        return !before(memory, chunk) &&
               before(memory, reinterpret_cast<std::byte*>(chunk) + chunk_bytes);
    };
    Chunk** link = &chunks_;
    while (!holds(*link)) link = &(*link)->next;
    Chunk* const chunk = *link;
    Gap* last = nullptr;
    Gap* next = chunk->first;
    while (next != nullptr && before(next, memory)) {
        last = next;
        next = next->next;
    }
    Gap* const gap = new (memory) Gap{bytes, nullptr};
    join(gap, next);
    if (last == nullptr) {
        chunk->first = gap;
    } else {
        join(last, gap);
    }
    // One chunk stays for blocks that come and go.
    if (chunk->first->bytes == room && (chunk != chunks_ || chunk->next != nullptr)) {
        *link = chunk->next;
        free_huge_pages(chunk, chunk_bytes);
    }
}

namespace {

/// Never destroyed: buffers of any lifetime are in it. Nor made: a fork might come in between.
union Forever {
    constexpr Forever() noexcept : pages() {}
    ~Forever() {}  // NOLINT(modernize-use-equals-default): that would be deleted
    SharedPages pages;
};
constinit Forever of_process;

#if defined(__unix__) || defined(__APPLE__)
[[maybe_unused]] const int fork_handlers_registered =
    pthread_atfork([] { of_process.pages.lock(); }, [] { of_process.pages.unlock(); },
                   [] { of_process.pages.unlock(); });
#endif

}  // namespace

SharedPages& shared_pages() noexcept { return of_process.pages; }

}  // namespace tersor::support
