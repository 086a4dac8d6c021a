#include "recurrent/kernels.hpp"
#include "spmm/epilogue/formulas.hpp"

#if TERSOR_ARM64

#include "simd/simd_neon.hpp"

#include "recurrent/kernel_simd.hpp"

namespace tersor::recurrent {

void install(dispatch::Level<Isa::neon>, Kernels& kernels) noexcept { kernels = {lstm, gru, tanh}; }

}  // namespace tersor::recurrent

#endif
