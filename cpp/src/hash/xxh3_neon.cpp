#include "dispatch/architecture.hpp"
#include "hash/kernels.hpp"

#if TERSOR_ARM64

#include <arm_neon.h>

namespace tersor::hash {
namespace {

inline uint64x2_t load(const std::uint8_t* p) noexcept { return vreinterpretq_u64_u8(vld1q_u8(p)); }

void accumulate(Accumulators& sums, const std::uint8_t* in, std::size_t stripes,
                const std::uint8_t* secret) noexcept {
    constexpr std::size_t parts = 4;
    uint64x2_t sum[parts];
    for (std::size_t i = 0; i < parts; ++i) sum[i] = vld1q_u64(sums.data() + 2 * i);
    for (std::size_t s = 0; s < stripes; ++s, in += stripe) {
        const std::size_t in_block = s % stripes_per_block;
        for (std::size_t i = 0; i < parts; ++i) {
            const uint64x2_t value = load(in + 16 * i);
            const uint64x2_t keyed = veorq_u64(value, load(secret + 8 * in_block + 16 * i));
            // Each value goes to the sum beside its own.
            sum[i] = vaddq_u64(sum[i], vextq_u64(value, value, 1));
            sum[i] = vmlal_u32(sum[i], vmovn_u64(keyed), vshrn_n_u64(keyed, 32));
        }
        if (in_block != stripes_per_block - 1) continue;
        for (std::size_t i = 0; i < parts; ++i) {
            const uint64x2_t key = load(secret + secret_size - stripe + 16 * i);
            const uint64x2_t mixed = veorq_u64(veorq_u64(sum[i], vshrq_n_u64(sum[i], 47)), key);
            // The low 64 bits of each product with the prime.
            const uint32x2_t prime = vdup_n_u32(prime32_1);
            const uint64x2_t high = vmull_u32(vshrn_n_u64(mixed, 32), prime);
            sum[i] = vmlal_u32(vshlq_n_u64(high, 32), vmovn_u64(mixed), prime);
        }
    }
    for (std::size_t i = 0; i < parts; ++i) vst1q_u64(sums.data() + 2 * i, sum[i]);
}

}  // namespace

void install(dispatch::Level<Isa::neon>, Kernels& kernels) noexcept {
    kernels.accumulate = accumulate;
}

}  // namespace tersor::hash

#endif
