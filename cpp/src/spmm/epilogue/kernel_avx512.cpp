#include "spmm/epilogue/formulas.hpp"
#include "spmm/epilogue/kernels.hpp"

#if TERSOR_AVX512

#include "simd/simd_avx512.hpp"

#include "spmm/epilogue/kernel_simd.hpp"

namespace tersor::spmm::epilogue {

void install(dispatch::Level<Isa::avx512>, Kernels& kernels) noexcept { kernels = {apply}; }

}  // namespace tersor::spmm::epilogue

#include "dispatch/target_end.hpp"

#endif
