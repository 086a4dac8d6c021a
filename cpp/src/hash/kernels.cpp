#include "hash/kernels.hpp"

#include "dispatch/level.hpp"

namespace tersor::hash {

namespace {

const auto& table() noexcept {
    static const dispatch::KernelTable<Kernels, Isa::scalar, Isa::avx2, Isa::avx512, Isa::neon>
        made;
    return made;
}

[[maybe_unused]] const auto& made_at_load = table();  // see KernelTable

}  // namespace

const Kernels& kernels() noexcept { return table()[dispatch::level()]; }

}  // namespace tersor::hash
