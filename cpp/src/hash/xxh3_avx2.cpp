#include "hash/kernels.hpp"

#if TERSOR_X86

#include "simd/simd_avx2.hpp"

#include "hash/xxh3_simd.hpp"

namespace tersor::hash {

void install(dispatch::Level<Isa::avx2>, Kernels& kernels) noexcept {
    kernels.accumulate = accumulate;
}

}  // namespace tersor::hash

#include "dispatch/target_end.hpp"

#endif
