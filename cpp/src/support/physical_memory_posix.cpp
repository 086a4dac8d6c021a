#include <unistd.h>

#include <algorithm>
#include <cstdint>

#include "support/checked_size.hpp"
#include "support/physical_memory.hpp"

namespace tersor::support {

std::size_t physical_memory() noexcept {
    constexpr long modest = 1L << 18;  // pages, where the system does not tell: a gigabyte of them
    const long pages = sysconf(_SC_PHYS_PAGES);
    const long page = sysconf(_SC_PAGESIZE);
    return checked_product(static_cast<std::uint64_t>(pages > 0 ? pages : modest),
                           static_cast<std::uint64_t>(std::max(page, 1L)))
        .value_or(static_cast<std::size_t>(max_size));
}

}  // namespace tersor::support
