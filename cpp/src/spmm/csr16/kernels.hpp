// The kernels of the layout csr16, one column per instruction-set level.
#pragma once

#include <cstddef>
#include <cstdint>

#include "dispatch/kernel_table.hpp"
#include "spmm/csr16/layout.hpp"
#include "tersor/isa.hpp"

namespace tersor::spmm::csr16 {

/// Activations that one call of `multiply_panel` serves.
inline constexpr std::size_t panel_lanes = 32;

/// Terms that `multiply_panel` sums in fp32 before they are folded into a second sum: it keeps the
/// rounding error of a long row near that of a short one.
inline constexpr std::uint64_t fold_terms = 256;

/// y[r] += sum of w * x[column], for r in [row_begin, row_end).
using MultiplyVector = void (*)(const BlockView& block, const float* x, float* y,
                                std::size_t row_begin, std::size_t row_end) noexcept;

/// y[r * stride + lane] += sum of w * panel[offsets[column] + lane], for 32 lanes and r in
/// [row_begin, row_end). One multiply-add per weight and vector, and no gathers: a batch and a
/// convolution differ only in the offsets.
using MultiplyPanel = void (*)(const BlockView& block, const float* panel,
                               const std::size_t* offsets, float* y, std::size_t stride,
                               std::size_t row_begin, std::size_t row_end) noexcept;

/// sums[code * 32 + lane] += panel[column * 32 + lane] * gradient[lane] for the entries
/// [begin, end) of a block with codes.
using SumByCode = void (*)(const BlockView& block, std::uint64_t begin, std::uint64_t end,
                           const float* panel, const float* gradient, float* sums) noexcept;

struct Kernels {
#define TERSOR_KERNEL(name, type) type name = nullptr;
#include "spmm/csr16/kernels.def"
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

}  // namespace tersor::spmm::csr16
