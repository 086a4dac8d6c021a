#include "tersor/version.hpp"

namespace tersor {

std::string_view version() noexcept { return TERSOR_VERSION; }

std::string_view compiler() noexcept {
#if defined(__clang__)
    return "clang " __clang_version__;
#elif defined(__GNUC__)
    return "gcc " __VERSION__;
#else
    return "unknown";
#endif
}

}  // namespace tersor
