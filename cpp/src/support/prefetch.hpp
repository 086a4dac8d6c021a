// Asking for memory before it is needed.
#pragma once

#include <cstddef>

#include "support/aligned_buffer.hpp"

namespace tersor::support {

/// Starts to load `size` bytes into the caches, where the compiler knows how.
inline void prefetch([[maybe_unused]] const void* begin,
                     [[maybe_unused]] std::size_t size) noexcept {
#if defined(__GNUC__)
    for (std::size_t at = 0; at < size; at += cache_line) {
        __builtin_prefetch(static_cast<const char*>(begin) + at);
    }
#endif
}

/// Starts to load a line that will be written to.
inline void prefetch_to_write([[maybe_unused]] const void* at) noexcept {
#if defined(__GNUC__)
    __builtin_prefetch(at, 1);
#endif
}

/// Starts to load a line into the second cache.
inline void prefetch_second_cache([[maybe_unused]] const void* at) noexcept {
#if defined(__GNUC__)
    __builtin_prefetch(at, 0, 2);
#endif
}

}  // namespace tersor::support
