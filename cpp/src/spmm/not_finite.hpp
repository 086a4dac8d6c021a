// NaN and infinity among activations. 0 * NaN and 0 * infinity are NaN: a row of the dense layer
// that has a pruned weight for such an activation gives NaN, which products without pruned weights
// miss.
#pragma once

#include <cstddef>
#include <vector>

#include "spmm/packed_matrix.hpp"

namespace tersor::spmm {

/// The vectors of a batch that are not finite.
class NotFinite {
public:
    NotFinite(const PackedMatrix::Layout& layout, const float* x, std::size_t vectors);

    /// Corrects the products [row_begin, row_end) of a vector; those of a finite one stay.
    void spread(std::size_t vector, std::size_t row_begin, std::size_t row_end,
                float* products) const noexcept;

private:
    const float* x_;
    std::size_t cols_;
    std::vector<std::size_t> counts_;  // of activations that are not finite, by vector
    const PackedMatrix::Layout* layout_;
    const Csr16* csr16_ = nullptr;  // where some vector needs it
};

}  // namespace tersor::spmm
