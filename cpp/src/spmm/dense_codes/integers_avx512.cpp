#include "spmm/dense_codes/integer_rows.hpp"
#include "spmm/sell/kernels.hpp"

#if TERSOR_AVX512

#include "simd/simd_avx512.hpp"

#include "spmm/dense_codes/floats_simd.hpp"
#include "spmm/dense_codes/integers_simd.hpp"

namespace tersor::spmm::sell {

void install_integers_avx512(Kernels& kernels) noexcept {
    kernels.multiply_integers = multiply_integers;
    kernels.multiply_as_floats = multiply_as_floats;
}

}  // namespace tersor::spmm::sell

#include "dispatch/target_end.hpp"

#endif
