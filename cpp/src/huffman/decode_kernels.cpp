#include "huffman/kernels.hpp"

namespace tersor::huffman {

const DecodeKernels& decode_kernels(Isa isa) noexcept {
    static const dispatch::KernelTable<DecodeKernels, Isa::scalar, Isa::avx2, Isa::avx512,
                                       Isa::neon>
        table;
    return table[isa];
}

namespace {
[[maybe_unused]] const auto& initialised_at_load = decode_kernels(Isa::scalar);  // see KernelTable
}

}  // namespace tersor::huffman
