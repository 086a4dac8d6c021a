// Functions of libraries that the process has already loaded, found without linking them.
#pragma once

#if defined(__unix__) || defined(__APPLE__)
#define TERSOR_POSIX 1
#else
#define TERSOR_POSIX 0
#endif

namespace tersor::support {

/// The libraries whose threads are borrowed, by their file names on this system.
#if defined(__APPLE__)
inline constexpr const char* torch_library = "libtorch_cpu.dylib";
inline constexpr const char* openmp_library = "libgomp.1.dylib";
#else
inline constexpr const char* torch_library = "libtorch_cpu.so";
inline constexpr const char* openmp_library = "libgomp.so.1";
#endif

/// The address of a symbol in the library with this file name, which stays loaded from then on;
/// nullptr where it is not loaded or has no such symbol. Loads nothing.
[[nodiscard]] void* symbol_of_loaded_library(const char* library, const char* symbol) noexcept;

/// Another number whenever a library may have been loaded since.
[[nodiscard]] unsigned long long libraries_loaded() noexcept;

}  // namespace tersor::support
