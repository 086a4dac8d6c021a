#include "huffman/kernels.hpp"

namespace tersor::huffman {

const EncodeKernels& encode_kernels(Isa isa) noexcept {
    static const dispatch::KernelTable<EncodeKernels, Isa::scalar, Isa::avx2, Isa::avx512,
                                       Isa::neon>
        table;
    return table[isa];
}

namespace {
[[maybe_unused]] const auto& initialised_at_load = encode_kernels(Isa::scalar);  // see KernelTable
}

}  // namespace tersor::huffman
