#include "support/loaded_library.hpp"

#if TERSOR_POSIX
#include <dlfcn.h>
#if defined(__APPLE__)
#include <mach-o/dyld.h>

#include <cstdint>
#include <string_view>
#else
#include <link.h>

#include <cstddef>
#endif
#endif

namespace tersor::support {

#if defined(__APPLE__)

void* symbol_of_loaded_library(const char* library, const char* symbol) noexcept {
    // dyld knows an image by its whole path alone, which a file name does not give.
    const std::string_view wanted(library);
    for (std::uint32_t i = 0; i < _dyld_image_count(); ++i) {
        const char* path = _dyld_get_image_name(i);
        if (path == nullptr) continue;
        const std::string_view image(path);
        if (image.substr(image.rfind('/') + 1) != wanted) continue;
        void* handle = dlopen(path, RTLD_LAZY | RTLD_NOLOAD);
        return handle != nullptr ? dlsym(handle, symbol) : nullptr;
    }
    return nullptr;
}

unsigned long long libraries_loaded() noexcept { return _dyld_image_count(); }

#elif TERSOR_POSIX

void* symbol_of_loaded_library(const char* library, const char* symbol) noexcept {
    void* handle = dlopen(library, RTLD_LAZY | RTLD_NOLOAD);
    return handle != nullptr ? dlsym(handle, symbol) : nullptr;
}

unsigned long long libraries_loaded() noexcept {
    unsigned long long count = 0;
    dl_iterate_phdr(
        [](dl_phdr_info* info, std::size_t, void* to) {
            *static_cast<unsigned long long*>(to) = info->dlpi_adds;
            return 1;  // one call is enough
        },
        &count);
    return count;
}

#else

void* symbol_of_loaded_library(const char*, const char*) noexcept { return nullptr; }
unsigned long long libraries_loaded() noexcept { return 0; }

#endif

}  // namespace tersor::support
