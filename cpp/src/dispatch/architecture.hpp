// Which ISA files have anything to compile: each `<topic>_<isa>.cpp` guards itself with one of
// these.
#pragma once

#if (defined(__x86_64__) || defined(__i386__)) && (defined(__GNUC__) || defined(__clang__))
#define TERSOR_X86 1
#else
#define TERSOR_X86 0  // MSVC builds the scalar level alone
#endif

#ifndef TERSOR_AVX512
#define TERSOR_AVX512 TERSOR_X86  // 0 where the build leaves these kernels out
#endif

#if defined(__aarch64__) && (defined(__GNUC__) || defined(__clang__))
#define TERSOR_ARM64 1
#else
#define TERSOR_ARM64 0
#endif
