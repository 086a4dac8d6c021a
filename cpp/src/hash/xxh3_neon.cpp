#include "hash/kernels.hpp"

#if TERSOR_ARM64

#include "simd/simd_neon.hpp"

#include "hash/xxh3_simd.hpp"

namespace tersor::hash {

void install(dispatch::Level<Isa::neon>, Kernels& kernels) noexcept {
    kernels.accumulate = accumulate;
}

}  // namespace tersor::hash

#endif
