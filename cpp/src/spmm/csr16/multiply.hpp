// Products in fp32 from the layout csr16.
#pragma once

#include "spmm/epilogue/outputs.hpp"
#include "spmm/packed_matrix.hpp"

namespace tersor::spmm {

/// out.products = x W^T + bias for one vector that is finite.
void gather_rows(const PackedMatrix::Layout& layout, const float* x, const Outputs& out,
                 int threads);

/// One vector in fp32 by gathers, whatever it holds.
void multiply_gathering(const PackedMatrix::Layout& layout, const float* x, const Outputs& out,
                        int threads);

/// A batch in fp32 from the layout csr16.
void multiply_csr16(const PackedMatrix::Layout& layout, const float* x, std::size_t batch,
                    const Outputs& out, int threads);

}  // namespace tersor::spmm
