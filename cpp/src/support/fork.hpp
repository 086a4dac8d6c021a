// What a fork leaves behind: a child has the memory of its parent and one of its threads.
#pragma once

namespace tersor::support {

/// How often the process was forked on the way from the one that loaded the library: what another
/// thread had begun under a lower number will never be finished.
[[nodiscard]] unsigned fork_generation() noexcept;

}  // namespace tersor::support
