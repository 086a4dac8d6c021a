#include "spmm/activations/kernels.hpp"
#include "spmm/sell/layout.hpp"

#if TERSOR_X86

#include "simd/simd_avx2.hpp"

#include "spmm/activations/kernel_simd.hpp"

namespace tersor::spmm::activations {
namespace {

/// The planes, and then those of each limb xor the one 16 columns on: see sell/kernel_avx2.cpp.
void split_with_differences(const float* x, std::size_t size, float low, float scale, int count,
                            std::uint8_t* limbs, std::size_t stride) noexcept {
    constexpr std::size_t columns_on = 16;
    split_activations<sell_avx2.limb_bits>(x, size, low, scale, count, limbs, stride);
    const std::size_t all = static_cast<std::size_t>(count) * stride;
    for (std::size_t i = 0; i < all; i += sizeof(simd::U64)) {
        const simd::U64 next = simd::load_u64(limbs + i + columns_on);
        simd::store_u64(limbs + all + i, simd::exclusive_or(simd::load_u64(limbs + i), next));
    }
}

}  // namespace

void install(dispatch::Level<Isa::avx2>, Kernels& kernels) noexcept {
    kernels = {range_of, split_with_differences, transpose, scale};
}

}  // namespace tersor::spmm::activations

#include "dispatch/target_end.hpp"

#endif
