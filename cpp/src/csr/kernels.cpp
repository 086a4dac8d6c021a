#include "csr/kernels.hpp"

namespace tersor::csr {

namespace {

const auto& table() noexcept {
    static const dispatch::KernelTable<Kernels, Isa::scalar, Isa::avx2, Isa::avx512, Isa::neon>
        made;
    return made;
}

[[maybe_unused]] const auto& made_at_load = table();  // see KernelTable

}  // namespace

const Kernels& kernels() { return table()[isa_in_use()]; }

}  // namespace tersor::csr
