#include "spmm/panels/kernels.hpp"

namespace tersor::spmm::panels {

const Kernels& kernels(Isa isa) noexcept {
    static const dispatch::KernelTable<Kernels, Isa::scalar, Isa::avx2, Isa::avx512, Isa::neon>
        table;
    return table[isa];
}

namespace {
[[maybe_unused]] const auto& initialised_at_load = kernels(Isa::scalar);  // see KernelTable
}

}  // namespace tersor::spmm::panels
