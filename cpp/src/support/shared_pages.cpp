#include "support/shared_pages.hpp"

#include <algorithm>
#include <functional>
#include <new>

#include "support/aligned_buffer.hpp"

namespace tersor::support {
namespace {

/// Taken from the system together. What no block has touched yet costs nothing.
constexpr std::size_t chunk_bytes = 32 * huge_page;

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
    for (const Chunk& chunk : chunks_) free_huge_pages(chunk.memory, chunk_bytes);
}

void* SharedPages::take(std::size_t bytes) {
    const std::lock_guard lock(mutex_);
    const auto take_from = [bytes](Chunk& chunk) -> void* {
        Gap** link = &chunk.first;
        while (*link != nullptr && (*link)->bytes < bytes) link = &(*link)->next;
        Gap* const gap = *link;
        if (gap == nullptr) return nullptr;
        *link = gap->next;
        if (gap->bytes > bytes) {
            const Gap rest{gap->bytes - bytes, gap->next};
            *link = new (reinterpret_cast<std::byte*>(gap) + bytes) Gap(rest);
        }
        return gap;
    };
    for (Chunk& chunk : chunks_) {
        if (void* const memory = take_from(chunk)) return memory;
    }
    chunks_.reserve(chunks_.size() + 1);
    auto* const memory = static_cast<std::byte*>(allocate_huge_pages(chunk_bytes));
    chunks_.push_back({memory, new (memory) Gap{chunk_bytes, nullptr}});
    return take_from(chunks_.back());
}

void SharedPages::give(void* memory, std::size_t bytes) noexcept {
    const std::lock_guard lock(mutex_);
    const std::less<const void*> before;
    const auto chunk = std::find_if(chunks_.begin(), chunks_.end(), [&](const Chunk& some) {
        return !before(memory, some.memory) && before(memory, some.memory + chunk_bytes);
    });
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
    if (chunk->first->bytes == chunk_bytes && chunks_.size() > 1) {
        free_huge_pages(chunk->memory, chunk_bytes);
        chunks_.erase(chunk);
    }
}

SharedPages& shared_pages() {
    // Buffers of any lifetime are in it.
    static auto* const pages = new SharedPages;
    return *pages;
}

}  // namespace tersor::support
