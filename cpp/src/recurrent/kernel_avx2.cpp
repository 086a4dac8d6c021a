#include "recurrent/kernels.hpp"
#include "spmm/epilogue/formulas.hpp"

#if TERSOR_X86

#include "simd/simd_avx2.hpp"

#include "recurrent/kernel_simd.hpp"

namespace tersor::recurrent {

void install(dispatch::Level<Isa::avx2>, Kernels& kernels) noexcept { kernels = {lstm, gru, tanh}; }

}  // namespace tersor::recurrent

#include "dispatch/target_end.hpp"

#endif
