#include "spmm/rows/kernels.hpp"

namespace tersor::spmm::rows {

const Kernels& kernels(Isa isa) noexcept {
    static const dispatch::KernelTable<Kernels, Isa::scalar, Isa::avx512> table;
    return table[isa];
}

namespace {
[[maybe_unused]] const auto& initialised_at_load = kernels(Isa::scalar);  // see KernelTable
}

}  // namespace tersor::spmm::rows
