// Opens a region compiled for the amx level; see target_avx2.hpp.
#if defined(__clang__)
#pragma clang attribute push(                                                              \
    __attribute__((target("avx2,bmi,bmi2,fma,f16c,lzcnt,popcnt,avx512f,avx512bw,avx512dq," \
                          "avx512vl,avx512vbmi,avx512vbmi2,avx512vnni,avx512vpopcntdq,"    \
                          "avx512bitalg,gfni,"                                             \
                          "amx-tile,amx-int8"))),                                          \
    apply_to = function)
#elif defined(__GNUC__)
#pragma GCC push_options
#pragma GCC target(                                                                 \
    "avx2,bmi,bmi2,fma,f16c,lzcnt,popcnt,avx512f,avx512bw,avx512dq,avx512vl,"       \
    "avx512vbmi,avx512vbmi2,avx512vnni,avx512vpopcntdq,avx512bitalg,gfni,amx-tile," \
    "amx-int8,prefer-vector-width=512")
#endif
