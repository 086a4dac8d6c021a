// The epilogue of products, one column per instruction-set level.
#pragma once

#include <cstddef>

#include "dispatch/kernel_table.hpp"
#include "tersor/epilogue.hpp"
#include "tersor/isa.hpp"

namespace tersor::spmm::epilogue {

/// What products are finished with; each may be nullptr. A bias comes with factors alone: without
/// them it is in the products already.
struct Operands {
    const float* factors = nullptr;
    const float* bias = nullptr;
    const void* residual = nullptr;
    FloatType residual_type = FloatType::float32;
};

/// y = activation(products * factors + bias + residual), rounded to y's type.
using Apply = void (*)(const float* products, std::size_t size, Activation activation,
                       const Operands& operands, void* y, FloatType y_type) noexcept;

struct Kernels {
#define TERSOR_KERNEL(name, type) type name = nullptr;
#include "spmm/epilogue/kernels.def"
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

}  // namespace tersor::spmm::epilogue
