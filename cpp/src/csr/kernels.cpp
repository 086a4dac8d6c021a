#include "csr/kernels.hpp"

namespace tersor::csr {

namespace {

const auto& table() noexcept {
    static const dispatch::KernelTable<Kernels, Isa::scalar, Isa::avx2, Isa::avx512, Isa::neon>
        by_level;
    return by_level;
}

[[maybe_unused]] const auto& initialised_at_load = table();  // see KernelTable

}  // namespace

const Kernels& kernels() { return table()[isa_in_use()]; }

}  // namespace tersor::csr
