// The inner loop of XXH3 (Collet 2020, xxHash's specification), a register at a time: each level
// includes this file inside its target region, after its simd.hpp. A stripe of 64 bytes takes a
// multiplication for each register, and its additions wait for those of the stripe before: bound by
// loads in the caches, then by memory.
#pragma once

#include "hash/kernels.hpp"

namespace tersor::hash {
namespace {  // NOLINT(google-build-namespaces): compiled anew for each level

using simd::U64;

inline void accumulate(Accumulators& sums, const std::uint8_t* in, std::size_t stripes,
                       const std::uint8_t* secret) noexcept {
    constexpr std::size_t size = sizeof(U64);
    constexpr std::size_t registers = stripe / size;
    U64 sum[registers];
    for (std::size_t i = 0; i < registers; ++i) {
        sum[i] = simd::load_u64(sums.data() + i * (size / 8));
    }
    while (stripes > 0) {
        const std::size_t count = stripes < stripes_per_block ? stripes : stripes_per_block;
        for (std::size_t s = 0; s < count; ++s, in += stripe) {
#pragma GCC unroll 4
            for (std::size_t i = 0; i < registers; ++i) {
                const U64 value = simd::load_u64(in + size * i);
                const U64 key = simd::load_u64(secret + 8 * s + size * i);
                const U64 product = simd::multiply_halves(simd::exclusive_or(value, key));
                // Each value goes to the sum beside its own.
                sum[i] = simd::add(sum[i], simd::add(product, simd::swap_neighbours(value)));
            }
        }
        stripes -= count;
        if (count < stripes_per_block) break;
        for (std::size_t i = 0; i < registers; ++i) {
            const U64 key = simd::load_u64(secret + secret_size - stripe + size * i);
            const U64 mixed = simd::exclusive_or(sum[i], simd::shift_right<47>(sum[i]));
            sum[i] = simd::multiply(simd::exclusive_or(mixed, key), prime32_1);
        }
    }
    for (std::size_t i = 0; i < registers; ++i) {
        simd::store_u64(sums.data() + i * (size / 8), sum[i]);
    }
}

}  // namespace
}  // namespace tersor::hash
