#include "hash/kernels.hpp"

#if TERSOR_AVX512

#include "simd/simd_avx512.hpp"

#include "hash/xxh3_simd.hpp"

namespace tersor::hash {

void install(dispatch::Level<Isa::avx512>, Kernels& kernels) noexcept {
    kernels.accumulate = accumulate;
}

}  // namespace tersor::hash

#include "dispatch/target_end.hpp"

#endif
