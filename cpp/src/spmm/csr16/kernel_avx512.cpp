#include "spmm/csr16/kernels.hpp"

#if TERSOR_AVX512

#include "simd/simd_avx512.hpp"

#include "spmm/csr16/kernel_simd.hpp"

namespace tersor::spmm::csr16 {

void install(dispatch::Level<Isa::avx512>, Kernels& kernels) noexcept {
    kernels = {multiply_vector, multiply_panel, sum_by_code};
}

}  // namespace tersor::spmm::csr16

#include "dispatch/target_end.hpp"

#endif
