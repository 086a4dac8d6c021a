// NEON: products with one vector where there is no dot product of bytes; the other way is in
// kernel_dot_neon.cpp.
#include "dispatch/architecture.hpp"
#include "dispatch/cpu_features.hpp"
#include "spmm/sell/kernels.hpp"

#if TERSOR_ARM64

#include "spmm/sell/kernel_neon.hpp"

namespace tersor::spmm::sell {

Multiply multiply_dot() noexcept;

void install(dispatch::Level<Isa::neon>, Kernels& kernels) noexcept {
    kernels.multiply = dispatch::has_dot_product() ? multiply_dot() : multiply<false>;
    install_integers_neon(kernels);
}

}  // namespace tersor::spmm::sell

#endif
