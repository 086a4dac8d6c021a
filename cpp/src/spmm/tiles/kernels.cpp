#include "spmm/tiles/kernels.hpp"

namespace tersor::spmm::tiles {

const Kernels& kernels(Isa isa) noexcept {
    static const dispatch::KernelTable<Kernels, Isa::amx> table;
    return table[isa];
}

namespace {
[[maybe_unused]] const auto& initialised_at_load = kernels(Isa::scalar);  // see KernelTable
}

}  // namespace tersor::spmm::tiles
