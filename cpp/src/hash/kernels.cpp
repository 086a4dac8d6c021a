#include "hash/kernels.hpp"

#include "dispatch/kernel_table.hpp"

namespace tersor::hash {

const Kernels& kernels() {
    static const dispatch::KernelTable<Kernels> table([](Isa isa, Kernels& column) {
        if (isa == Isa::scalar) install_scalar(column);
        if (isa == Isa::avx2) install_avx2(column);
        if (isa == Isa::avx512) install_avx512(column);
    });
    return table[isa_in_use()];
}

}  // namespace tersor::hash
