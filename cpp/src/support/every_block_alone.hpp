// Whether blocks of memory may lie beside each other, or be kept for later.
#pragma once

namespace tersor::support {

#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#define TERSOR_ADDRESS_SANITIZER 1
#endif
#elif defined(__SANITIZE_ADDRESS__)
#define TERSOR_ADDRESS_SANITIZER 1
#endif

/// Where the sanitizer has to see each block's ends, or a test every allocation.
#if defined(TERSOR_ADDRESS_SANITIZER) || defined(TERSOR_HEAP_ALONE)
inline constexpr bool every_block_alone = true;
#else
inline constexpr bool every_block_alone = false;
#endif

}  // namespace tersor::support
