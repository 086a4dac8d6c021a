// The kernels of relative-index encoding, one column per instruction-set level.
#pragma once

#include <cstddef>
#include <cstdint>

#include "dispatch/kernel_table.hpp"
#include "tersor/isa.hpp"

namespace tersor::csr {

/// Sets bit i % 64 of bits[i / 64] when codes[i] != 0; writes ceil(size / 64) words.
using Bitmap = void (*)(const std::uint8_t* codes, std::size_t size, std::uint64_t* bits) noexcept;

/// Whether a sequence obeys the rules, and its non-zeros: without the place of a fault, so that
/// many entries can be looked at together.
struct FastVerdict {
    bool good = false;
    std::size_t nonzeros = 0;
};
using ValidateFast = FastVerdict (*)(const std::uint8_t* codes, const std::uint8_t* gaps,
                                     std::size_t size, int index_bits,
                                     std::uint64_t sequence_length) noexcept;

struct Kernels {
#define TERSOR_KERNEL(name, type) type name = nullptr;
#include "csr/kernels.def"
#undef TERSOR_KERNEL
};

void install(dispatch::Level<Isa::scalar>, Kernels& kernels) noexcept;
void install(dispatch::Level<Isa::avx2>, Kernels& kernels) noexcept;
void install(dispatch::Level<Isa::avx512>, Kernels& kernels) noexcept;
void install(dispatch::Level<Isa::neon>, Kernels& kernels) noexcept;

/// The kernels of the level in use.
[[nodiscard]] inline const Kernels& kernels() {
    return dispatch::KernelTable<Kernels, Isa::scalar, Isa::avx2, Isa::avx512, Isa::neon>::at(
        isa_in_use());
}

}  // namespace tersor::csr
