// The kernels of the layout sell, one column per instruction-set level.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "dispatch/kernel_table.hpp"
#include "spmm/sell/fill.hpp"
#include "spmm/sell/layout.hpp"
#include "tersor/isa.hpp"

namespace tersor::spmm::sell {

/// y[i * rows + row] = sum of w * x[i] + bias[row] for `items` vectors, whose planes of limbs lie
/// one behind the other, `weights` being the limbs of w by code, and for the
/// rows of the slices [slice_begin, slice_end); `bias` may be nullptr. Levels that have no such
/// kernel leave it nullptr: the fp32 kernels meet every class.
using Multiply = void (*)(const Sell& layout, const Limbs& weights, Arithmetic arithmetic,
                          const FixedActivations* x, std::size_t items, const float* bias, float* y,
                          std::size_t slice_begin, std::size_t slice_end) noexcept;

/// The same in fp32, with dense slices of integers: x [items, stride], stride being
/// `Sell::row_bytes`, holds 0 past the last column. Levels where limbs are faster leave it nullptr.
using MultiplyAsFloats = void (*)(const Sell& layout, const float* x, std::size_t items,
                                  const float* bias, float* y, std::size_t slice_begin,
                                  std::size_t slice_end) noexcept;

/// totals = the sum of counts[c] * terms[c] over the codes but 0, whose terms are 0.
using WeighCounts = void (*)(const std::uint32_t* counts, std::size_t values,
                             const CodeTerms* terms, CodeTerms& totals) noexcept;

/// Of `size` rows, at least one; x_first is that of the first.
using MomentsOf = Moments (*)(const RowStatistics* statistics, const std::uint32_t* rows,
                              std::size_t size) noexcept;

/// Moves the rows of slices into pairs of steps, until nothing is left or there is no room. A step
/// takes up to four entries of each row, as far as they lie in its window, which begins at the
/// first column that is left.
using FillPairs = void (*)(std::span<SliceCursor> slices, const SellShape& shape,
                           bool nibbles) noexcept;

struct Kernels {
#define TERSOR_KERNEL(name, type) type name = nullptr;
#include "spmm/sell/kernels.def"
#undef TERSOR_KERNEL
};

void install(dispatch::Level<Isa::scalar>, Kernels& kernels) noexcept;
void install(dispatch::Level<Isa::avx2>, Kernels& kernels) noexcept;
void install(dispatch::Level<Isa::avx512>, Kernels& kernels) noexcept;
void install(dispatch::Level<Isa::neon>, Kernels& kernels) noexcept;
/// Of kernels that fill the layout, and of those for dense slices, which have files of their own.
void install_fill_avx512(Kernels& kernels) noexcept;
void install_dense_avx512(Kernels& kernels) noexcept;
void install_dense_avx2(Kernels& kernels) noexcept;
void install_integers_avx2(Kernels& kernels) noexcept;
void install_integers_avx512(Kernels& kernels) noexcept;
void install_integers_neon(Kernels& kernels) noexcept;

/// The kernels of a level.
[[nodiscard]] inline const Kernels& kernels(Isa isa) noexcept {
    return dispatch::KernelTable<Kernels, Isa::scalar, Isa::avx2, Isa::avx512, Isa::neon>::at(isa);
}

}  // namespace tersor::spmm::sell
