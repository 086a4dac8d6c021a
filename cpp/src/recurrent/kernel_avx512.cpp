#include "recurrent/kernels.hpp"
#include "spmm/epilogue/formulas.hpp"

#if TERSOR_AVX512

#include "simd/simd_avx512.hpp"

#include "recurrent/kernel_simd.hpp"

namespace tersor::recurrent {

void install(dispatch::Level<Isa::avx512>, Kernels& kernels) noexcept {
    kernels = {lstm, gru, tanh};
}

}  // namespace tersor::recurrent

#include "dispatch/target_end.hpp"

#endif
