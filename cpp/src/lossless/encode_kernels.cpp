#include "lossless/kernels.hpp"

namespace tersor::lossless {

const EncodeKernels& encode_kernels(Isa isa) noexcept {
    return dispatch::KernelTable<EncodeKernels, Isa::scalar, Isa::avx2, Isa::avx512>::at(isa);
}

}  // namespace tersor::lossless
