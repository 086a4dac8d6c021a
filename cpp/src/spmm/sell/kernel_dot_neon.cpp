// NEON: products with one vector where the processor has the dot product of bytes (Armv8.2).
#include "dispatch/architecture.hpp"
#include "spmm/sell/kernels.hpp"

#if TERSOR_ARM64

#include <arm_neon.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "dispatch/target_neon_dot.hpp"

#include "spmm/sell/kernel_neon.hpp"

#include "dispatch/target_end.hpp"

namespace tersor::spmm::sell {

Multiply multiply_dot() noexcept;
Multiply multiply_dot() noexcept { return multiply<true>; }

}  // namespace tersor::spmm::sell

#endif
