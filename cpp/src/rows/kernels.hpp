// The kernels of row look-ups, one column per instruction-set level.
#pragma once

#include <cstddef>
#include <cstdint>

#include "dispatch/kernel_table.hpp"
#include "rows/layout.hpp"
#include "tersor/isa.hpp"

namespace tersor::rows {

/// Writes factor * values[code] for the first `size` codes of a row. Up to 64 bytes behind the
/// row's codes are read.
using DecodeRow = void (*)(const std::uint8_t* codes, const Codebook& codebook, float factor,
                           std::size_t size, float* out) noexcept;

struct Kernels {
#define TERSOR_KERNEL(name, type) type name = nullptr;
#include "rows/kernels.def"
#undef TERSOR_KERNEL
};

void install(dispatch::Level<Isa::scalar>, Kernels& kernels) noexcept;
void install(dispatch::Level<Isa::avx2>, Kernels& kernels) noexcept;
void install(dispatch::Level<Isa::avx512>, Kernels& kernels) noexcept;

/// The kernels of a level.
[[nodiscard]] inline const Kernels& kernels(Isa isa) noexcept {
    return dispatch::KernelTable<Kernels, Isa::scalar, Isa::avx2, Isa::avx512>::at(isa);
}

}  // namespace tersor::rows
