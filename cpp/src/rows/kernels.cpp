#include "rows/kernels.hpp"

namespace tersor::rows {

const Kernels& kernels(Isa isa) noexcept {
    static const dispatch::KernelTable<Kernels, Isa::scalar, Isa::avx2, Isa::avx512> table;
    return table[isa];
}

namespace {
[[maybe_unused]] const auto& made_at_load = kernels(Isa::scalar);  // see KernelTable
}

}  // namespace tersor::rows
