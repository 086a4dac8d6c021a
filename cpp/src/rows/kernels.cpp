#include "rows/kernels.hpp"

#include "dispatch/kernel_table.hpp"

namespace tersor::rows {

const Kernels& kernels(Isa isa) noexcept {
    static const dispatch::KernelTable<Kernels> table{
        {Isa::scalar, install_scalar},
        {Isa::avx2, install_avx2},
        {Isa::avx512, install_avx512},
    };
    return table[isa];
}

namespace {
[[maybe_unused]] const auto& made_at_load = kernels(Isa::scalar);  // see KernelTable
}

}  // namespace tersor::rows
