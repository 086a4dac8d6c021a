#include "csr/kernels.hpp"

#include "dispatch/kernel_table.hpp"

namespace tersor::csr {

namespace {

const dispatch::KernelTable<Kernels>& table() noexcept {
    static const dispatch::KernelTable<Kernels> made{
        {Isa::scalar, install_scalar},
        {Isa::avx2, install_avx2},
        {Isa::avx512, install_avx512},
        {Isa::neon, install_neon},
    };
    return made;
}

[[maybe_unused]] const auto& made_at_load = table();  // see KernelTable

}  // namespace

const Kernels& kernels() { return table()[isa_in_use()]; }

}  // namespace tersor::csr
