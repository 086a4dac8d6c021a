#include "hash/kernels.hpp"

#include "dispatch/level.hpp"

namespace tersor::hash {

namespace {

const auto& table() noexcept {
    static const dispatch::KernelTable<Kernels, Isa::scalar, Isa::avx2, Isa::avx512, Isa::neon>
        by_level;
    return by_level;
}

[[maybe_unused]] const auto& initialised_at_load = table();  // see KernelTable

}  // namespace

const Kernels& kernels() noexcept { return table()[dispatch::level()]; }

}  // namespace tersor::hash
