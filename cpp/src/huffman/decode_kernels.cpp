#include "huffman/kernels.hpp"

#include "dispatch/kernel_table.hpp"

namespace tersor::huffman {

const DecodeKernels& decode_kernels(Isa isa) noexcept {
    static const dispatch::KernelTable<DecodeKernels> table{
        {Isa::scalar, install_scalar},
        {Isa::avx2, install_avx2},
        {Isa::avx512, install_avx512},
        {Isa::neon, install_neon},
    };
    return table[isa];
}

namespace {
[[maybe_unused]] const auto& made_at_load = decode_kernels(Isa::scalar);  // see KernelTable
}

}  // namespace tersor::huffman
