#include "spmm/panels/kernels.hpp"

#if TERSOR_ARM64

#include "simd/simd_neon.hpp"

#include "spmm/panels/kernel_simd.hpp"

namespace tersor::spmm::panels {

void install(dispatch::Level<Isa::neon>, Kernels& kernels) noexcept {
    kernels.multiply_block = multiply_block;
}

}  // namespace tersor::spmm::panels

#endif
