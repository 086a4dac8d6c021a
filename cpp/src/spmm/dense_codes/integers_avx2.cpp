#include "spmm/dense_codes/integer_rows.hpp"
#include "spmm/sell/kernels.hpp"

#if TERSOR_X86

#include "simd/simd_avx2.hpp"

#include "spmm/dense_codes/floats_simd.hpp"
#include "spmm/dense_codes/integers_simd.hpp"

namespace tersor::spmm::sell {

void install_integers_avx2(Kernels& kernels) noexcept {
    kernels.multiply_integers = multiply_integers;
    kernels.multiply_as_floats = multiply_as_floats;
}

}  // namespace tersor::spmm::sell

#include "dispatch/target_end.hpp"

#endif
