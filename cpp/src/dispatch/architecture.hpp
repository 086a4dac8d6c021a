// Which ISA files have anything to compile: each `<topic>_<isa>.cpp` guards itself with one of
// these.
#pragma once

#if defined(__x86_64__)  // not i386: the kernels need registers of 64 bits
#define TERSOR_X86 1
#else
#define TERSOR_X86 0
#endif

#ifndef TERSOR_AVX512
#define TERSOR_AVX512 TERSOR_X86  // 0 where the build leaves these kernels out
#endif

#ifndef TERSOR_AMX
#define TERSOR_AMX TERSOR_AVX512  // 0 where the compiler does not know tiles
#endif

#if defined(__aarch64__) && !defined(__AARCH64EB__)
#define TERSOR_ARM64 1
#else
#define TERSOR_ARM64 0
#endif
