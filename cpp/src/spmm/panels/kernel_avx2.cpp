#include "spmm/panels/kernels.hpp"

#if TERSOR_X86

#include "simd/simd_avx2.hpp"

#include "spmm/panels/kernel_simd.hpp"

namespace tersor::spmm::panels {

void install(dispatch::Level<Isa::avx2>, Kernels& kernels) noexcept {
    kernels.multiply_block = multiply_block;
}

}  // namespace tersor::spmm::panels

#include "dispatch/target_end.hpp"

#endif
