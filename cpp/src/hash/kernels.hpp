// The inner loop of XXH3 for long inputs, one column per instruction-set level.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "dispatch/kernel_table.hpp"
#include "dispatch/level.hpp"
#include "tersor/isa.hpp"

namespace tersor::hash {

using Accumulators = std::array<std::uint64_t, 8>;
inline constexpr std::size_t stripe = 64;
inline constexpr std::size_t secret_size = 192;
/// Stripes after which the sums are scrambled.
inline constexpr std::size_t stripes_per_block = (secret_size - stripe) / 8;
inline constexpr std::uint64_t prime32_1 = 0x9E3779B1;

/// Adds stripes of 64 bytes to the sums, which are aligned to 64. The key of each stripe begins 8
/// bytes behind the one before; `secret` is read from its start again after each block.
using Accumulate = void (*)(Accumulators& sums, const std::uint8_t* in, std::size_t stripes,
                            const std::uint8_t* secret) noexcept;

struct Kernels {
#define TERSOR_KERNEL(name, type) type name = nullptr;
#include "hash/kernels.def"
#undef TERSOR_KERNEL
};

void install(dispatch::Level<Isa::scalar>, Kernels& kernels) noexcept;
void install(dispatch::Level<Isa::avx2>, Kernels& kernels) noexcept;
void install(dispatch::Level<Isa::avx512>, Kernels& kernels) noexcept;
void install(dispatch::Level<Isa::neon>, Kernels& kernels) noexcept;

/// The kernels of the level in use.
[[nodiscard]] inline const Kernels& kernels() noexcept {
    return dispatch::KernelTable<Kernels, Isa::scalar, Isa::avx2, Isa::avx512, Isa::neon>::at(
        dispatch::level());
}

}  // namespace tersor::hash
