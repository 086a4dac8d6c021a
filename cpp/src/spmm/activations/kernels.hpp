// What is done to the activations of any layout, one column per instruction-set level.
#pragma once

#include <cstddef>
#include <cstdint>

#include "dispatch/kernel_table.hpp"
#include "spmm/fixed_point.hpp"
#include "tersor/epilogue.hpp"
#include "tersor/isa.hpp"

namespace tersor::spmm::activations {

/// The range of a vector.
using RangeOf = Range (*)(const float* x, std::size_t size) noexcept;

/// limbs[p * stride + k] = limb p of round((x[k] - low) * scale), for `count` limbs. Where the
/// level's shape has two planes per limb, limbs[(count + p) * stride + k] becomes that limb xor
/// the one 16 columns on.
using SplitActivations = void (*)(const float* x, std::size_t size, float low, float scale,
                                  int count, std::uint8_t* limbs, std::size_t stride) noexcept;

/// to = x * factors, for x of either type.
using Scale = void (*)(const void* x, FloatType type, const float* factors, std::size_t size,
                       float* to) noexcept;

/// to[c * to_stride + r] = from[r * from_stride + c].
using Transpose = void (*)(const float* from, std::size_t from_stride, std::size_t rows,
                           std::size_t cols, float* to, std::size_t to_stride) noexcept;

struct Kernels {
#define TERSOR_KERNEL(name, type) type name = nullptr;
#include "spmm/activations/kernels.def"
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

}  // namespace tersor::spmm::activations
