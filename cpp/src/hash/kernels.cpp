#include "hash/kernels.hpp"

#include "dispatch/kernel_table.hpp"
#include "dispatch/level.hpp"

namespace tersor::hash {

const Kernels& kernels() noexcept {
    static const dispatch::KernelTable<Kernels> table{
        {Isa::scalar, install_scalar},
        {Isa::avx2, install_avx2},
        {Isa::avx512, install_avx512},
        {Isa::neon, install_neon},
    };
    return table[dispatch::level()];
}

}  // namespace tersor::hash
