#include "spmm/csr16/kernels.hpp"

#if TERSOR_X86

#include "simd/simd_avx2.hpp"

#include "spmm/csr16/kernel_simd.hpp"

namespace tersor::spmm::csr16 {

void install(dispatch::Level<Isa::avx2>, Kernels& kernels) noexcept {
    kernels = {multiply_vector, multiply_panel, sum_by_code};
}

}  // namespace tersor::spmm::csr16

#include "dispatch/target_end.hpp"

#endif
