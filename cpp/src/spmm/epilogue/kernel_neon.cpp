#include "spmm/epilogue/formulas.hpp"
#include "spmm/epilogue/kernels.hpp"

#if TERSOR_ARM64

#include "simd/simd_neon.hpp"

#include "spmm/epilogue/kernel_simd.hpp"

namespace tersor::spmm::epilogue {

void install(dispatch::Level<Isa::neon>, Kernels& kernels) noexcept { kernels = {apply}; }

}  // namespace tersor::spmm::epilogue

#endif
