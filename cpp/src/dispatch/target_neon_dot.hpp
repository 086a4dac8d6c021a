// Opens a region compiled for NEON with the dot product of bytes; see target_avx2.hpp.
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("dotprod"))), apply_to = function)
#elif defined(__GNUC__)
#pragma GCC push_options
#if !defined(__ARM_FEATURE_DOTPROD)  // whoever compiles for more keeps it
#pragma GCC target("arch=armv8.2-a+dotprod")
#endif
#endif
