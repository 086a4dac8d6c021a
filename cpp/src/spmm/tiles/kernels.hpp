// The kernel of the layout tiles, one column per instruction-set level.
#pragma once

#include <cstddef>

#include "dispatch/kernel_table.hpp"
#include "spmm/tiles/layout.hpp"
#include "tersor/isa.hpp"

namespace tersor::spmm::tiles {

/// out.y[i * rows + row] = sum of w * x[i] + bias[row] for the vectors of `x` and the rows of the
/// groups [group_begin, group_end), at most `groups_at_once`.
/// Levels without tiles leave it nullptr.
using Multiply = void (*)(const Tiles& layout, const Limbs& weights, Arithmetic arithmetic,
                          const TileActivations& x, const TileOutputs& out, TileWork work,
                          std::size_t group_begin, std::size_t group_end) noexcept;

struct Kernels {
#define TERSOR_KERNEL(name, type) type name = nullptr;
#include "spmm/tiles/kernels.def"
#undef TERSOR_KERNEL
};

void install(dispatch::Level<Isa::amx>, Kernels& kernels) noexcept;

/// The kernels of a level.
[[nodiscard]] inline const Kernels& kernels(Isa isa) noexcept {
    return dispatch::KernelTable<Kernels, Isa::amx>::at(isa);
}

}  // namespace tersor::spmm::tiles
