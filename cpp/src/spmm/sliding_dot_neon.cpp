// NEON: products with one vector where the processor has the dot product of bytes (Armv8.2).
#include "dispatch/architecture.hpp"
#include "spmm/kernels.hpp"

#if TERSOR_ARM64

#include <arm_neon.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "dispatch/cpu_features.hpp"

#include "dispatch/target_neon_dot.hpp"

#include "spmm/sliding_neon.hpp"

#include "dispatch/target_end.hpp"

namespace tersor::spmm {

void install_sliding_dot_neon(Kernels& kernels) noexcept {
    if (dispatch::has_dot_product()) kernels.multiply_sliding = multiply_sliding<true>;
}

}  // namespace tersor::spmm

#else

namespace tersor::spmm {
void install_sliding_dot_neon(Kernels&) noexcept {}
}  // namespace tersor::spmm

#endif
