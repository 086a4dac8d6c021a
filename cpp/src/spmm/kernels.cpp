#include "spmm/kernels.hpp"

#include "dispatch/kernel_table.hpp"

namespace tersor::spmm {

const Kernels& kernels(Isa isa) noexcept {
    static const dispatch::KernelTable<Kernels> table{
        {Isa::scalar, install_scalar},
        {Isa::scalar, install_filling_scalar},
        {Isa::scalar, install_panels_scalar},
        {Isa::scalar, install_finish_scalar},
        {Isa::avx2, install_avx2},
        {Isa::avx2, install_panels_avx2},
        {Isa::avx2, install_sliding_avx2},
        {Isa::avx2, install_finish_avx2},
        {Isa::avx512, install_avx512},
        {Isa::avx512, install_filling_avx512},
        {Isa::avx512, install_sliding_avx512},
        {Isa::avx512, install_panels_avx512},
        {Isa::avx512, install_finish_avx512},
        {Isa::amx, install_tiles_amx},
        {Isa::neon, install_neon},
        {Isa::neon, install_sliding_neon},
        {Isa::neon, install_sliding_dot_neon},
    };
    return table[isa];
}

namespace {
[[maybe_unused]] const auto& made_at_load = kernels(Isa::scalar);  // see KernelTable
}

}  // namespace tersor::spmm
