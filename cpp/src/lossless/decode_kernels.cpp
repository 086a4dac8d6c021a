#include "lossless/kernels.hpp"

namespace tersor::lossless {

const DecodeKernels& decode_kernels(Isa isa) noexcept {
    return dispatch::KernelTable<DecodeKernels, Isa::scalar, Isa::avx2, Isa::avx512>::at(isa);
}

}  // namespace tersor::lossless
