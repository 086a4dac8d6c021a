#include "spmm/csr16/kernels.hpp"

#if TERSOR_ARM64

#include "simd/simd_neon.hpp"

#include "spmm/csr16/kernel_simd.hpp"

namespace tersor::spmm::csr16 {

void install(dispatch::Level<Isa::neon>, Kernels& kernels) noexcept {
    kernels = {multiply_vector, multiply_panel, sum_by_code};
}

}  // namespace tersor::spmm::csr16

#endif
