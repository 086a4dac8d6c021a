#include "lossless/kernels.hpp"

namespace tersor::lossless {

const DecodeKernels& decode_kernels(Isa isa) noexcept {
    static const dispatch::KernelTable<DecodeKernels, Isa::scalar, Isa::avx2, Isa::avx512> table;
    return table[isa];
}

namespace {
[[maybe_unused]] const auto& made_at_load = decode_kernels(Isa::scalar);  // see KernelTable
}

}  // namespace tersor::lossless
