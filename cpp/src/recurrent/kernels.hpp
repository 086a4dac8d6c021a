// The gates of recurrent cells, one column per instruction-set level.
#pragma once

#include <cstddef>

#include "dispatch/kernel_table.hpp"
#include "tersor/isa.hpp"

namespace tersor::recurrent {

/// c = sigmoid(forget) * c + sigmoid(input) * tanh(cell), h = sigmoid(output) * tanh(c), for gates
/// [4, size].
using Lstm = void (*)(const float* gates, std::size_t size, float* c, float* h) noexcept;

/// h = (1 - z) * n + z * h with r, z = sigmoid(x + y), n = tanh(x + r * y), for the products with
/// the input, `x` [3, size], and with h, `y` [3, size].
using Gru = void (*)(const float* x, const float* y, std::size_t size, float* h) noexcept;

/// h = tanh(gate).
using Tanh = void (*)(const float* gate, std::size_t size, float* h) noexcept;

struct Kernels {
#define TERSOR_KERNEL(name, type) type name = nullptr;
#include "recurrent/kernels.def"
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

/// Below this magnitude tanh is taken from its series: (1 - e) / (1 + e) would cancel.
inline constexpr float tanh_series_below = 0.35F;

/// tanh(x) / x by powers of x^2 (Taylor's series); the first that is left out is below 2^-24.
inline constexpr float tanh_series[] = {1.0F,
                                        -1.0F / 3.0F,
                                        2.0F / 15.0F,
                                        -17.0F / 315.0F,
                                        62.0F / 2835.0F,
                                        -1382.0F / 155925.0F,
                                        21844.0F / 6081075.0F};

}  // namespace tersor::recurrent
