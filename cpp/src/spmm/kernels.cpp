#include "spmm/kernels.hpp"

#include "dispatch/kernel_table.hpp"

namespace tersor::spmm {

const Kernels& kernels(Isa isa) {
    static const dispatch::KernelTable<Kernels> table([](Isa level, Kernels& column) {
        if (level == Isa::scalar) {
            install_scalar(column);
            install_panels_scalar(column);
        }
        if (level == Isa::avx2) {
            install_avx2(column);
            install_panels_avx2(column);
            install_sliding_avx2(column);
        }
        if (level == Isa::avx512) {
            install_avx512(column);
            install_sliding_avx512(column);
            install_panels_avx512(column);
        }
    });
    return table[isa];
}

}  // namespace tersor::spmm
