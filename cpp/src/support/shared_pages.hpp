// Blocks smaller than a huge page, side by side in huge pages: a layer that comes from memory and
// not from a cache waits for the translation of each small page longer than for its bytes.
#pragma once

#include <cstddef>
#include <mutex>
#include <vector>

namespace tersor::support {

/// Huge pages that are shared by blocks. Free memory is a list of gaps in the order of addresses,
/// which is kept in the gaps themselves; the first one that is large enough serves.
class SharedPages {
public:
    SharedPages() noexcept = default;
    SharedPages(const SharedPages&) = delete;
    SharedPages& operator=(const SharedPages&) = delete;
    ~SharedPages();

    /// Blocks that begin at cache lines: `bytes` is a multiple of a line. Throws std::bad_alloc.
    [[nodiscard]] void* take(std::size_t bytes);
    void give(void* memory, std::size_t bytes) noexcept;

private:
    struct Gap {
        std::size_t bytes;
        Gap* next;
    };
    struct Chunk {
        std::byte* memory;
        Gap* first;
    };

    std::mutex mutex_;
    std::vector<Chunk> chunks_;
};

/// Those of the process.
[[nodiscard]] SharedPages& shared_pages();

}  // namespace tersor::support
