#include "spmm/activations/kernels.hpp"
#include "spmm/sell/layout.hpp"

#if TERSOR_ARM64

#include "simd/simd_neon.hpp"

#include "spmm/activations/kernel_simd.hpp"

namespace tersor::spmm::activations {

void install(dispatch::Level<Isa::neon>, Kernels& kernels) noexcept {
    kernels = {range_of, split_activations<sell_neon.limb_bits>, transpose, scale};
}

}  // namespace tersor::spmm::activations

#endif
