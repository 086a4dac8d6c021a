// Opens a region compiled for the avx2 level; close it with target_end.hpp. Include it after every
// other header, so that no shared inline function is compiled with instructions that a lesser
// machine lacks. No include guard: a file may open several regions.
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,bmi,bmi2,fma,f16c,lzcnt,popcnt"))), \
                             apply_to = function)
#elif defined(__GNUC__)
#pragma GCC push_options
#pragma GCC target("avx2,bmi,bmi2,fma,f16c,lzcnt,popcnt")
#endif
