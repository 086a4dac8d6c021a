// The kernels of the layout panels, one column per instruction-set level.
#pragma once

#include <cstddef>
#include <cstdint>

#include "dispatch/kernel_table.hpp"
#include "spmm/panels/layout.hpp"
#include "tersor/isa.hpp"

namespace tersor::spmm::panels {

/// sums[row * lanes + lane] += sum of w * panel[column * lanes + lane] over one block of the panel
/// layout, for 16, 32 or 64 lanes; panel and sums are aligned to 64 bytes.
using MultiplyBlock = void (*)(const std::uint16_t* begin, const std::uint16_t* end,
                               const float* codebook, const float* panel, std::size_t lanes,
                               float* sums) noexcept;

/// panel[column * 64 + place] = limbs[vector * stride + column] for 64 vectors and a multiple of
/// 64 columns, in the places that leave the sums of `MultiplyLimbBlock` in the order of the
/// vectors. Levels without the kernels for panels of limbs leave the three nullptr.
using InterleaveLimbs = void (*)(const std::uint8_t* limbs, std::size_t stride, std::size_t columns,
                                 std::uint8_t* panel) noexcept;

/// sums[row * 64 + vector] += sum of limb of w * limb of x over one block of the panel layout.
using MultiplyLimbBlock = void (*)(const std::uint16_t* begin, const std::uint16_t* end,
                                   const std::uint8_t* panel, std::int32_t* sums) noexcept;

/// y[row * 64 + vector] = sums[...] * units[vector] + lows[vector] * row_sums[row] + bias[row];
/// `bias` may be nullptr, and `y` the memory of the sums.
using ScaleLimbSums = void (*)(const std::int32_t* sums, std::size_t rows, const float* units,
                               const float* lows, const float* row_sums, const float* bias,
                               float* y) noexcept;

struct Kernels {
#define TERSOR_KERNEL(name, type) type name = nullptr;
#include "spmm/panels/kernels.def"
#undef TERSOR_KERNEL
};

void install(dispatch::Level<Isa::scalar>, Kernels& kernels) noexcept;
void install(dispatch::Level<Isa::avx2>, Kernels& kernels) noexcept;
void install(dispatch::Level<Isa::avx512>, Kernels& kernels) noexcept;
void install(dispatch::Level<Isa::neon>, Kernels& kernels) noexcept;

/// The kernels of a level.
[[nodiscard]] inline const Kernels& kernels(Isa isa) noexcept {
    return dispatch::KernelTable<Kernels, Isa::scalar, Isa::avx2, Isa::avx512, Isa::neon>::at(isa);
}

}  // namespace tersor::spmm::panels
