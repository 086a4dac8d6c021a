#include "tersor/version.hpp"

#define TERSOR_STRINGIFY_(x) #x
#define TERSOR_STRINGIFY(x) TERSOR_STRINGIFY_(x)

namespace tersor {

std::string_view version() noexcept { return TERSOR_VERSION; }

std::string_view compiler() noexcept {
#if defined(__clang__)
    return "clang " __clang_version__;
#elif defined(__GNUC__)
    return "gcc " __VERSION__;
#elif defined(_MSC_VER)
    return "msvc " TERSOR_STRINGIFY(_MSC_VER) " (scalar level only)";
#else
    return "unknown";
#endif
}

}  // namespace tersor
