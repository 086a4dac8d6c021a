#include "conv/kernels.hpp"

namespace tersor::conv {
namespace {

const auto& table() noexcept {
    static const dispatch::KernelTable<Kernels, Isa::scalar, Isa::avx2, Isa::avx512, Isa::neon>
        made;
    return made;
}

[[maybe_unused]] const auto& made_at_load = table();  // see KernelTable

}  // namespace

const Kernels& kernels(Isa isa) noexcept { return table()[isa]; }

}  // namespace tersor::conv
