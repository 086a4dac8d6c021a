// What a packed matrix holds: one layout, and others from when they are first needed.
#pragma once

#include <cstdint>

#include "spmm/highest.hpp"
#include "spmm/panels.hpp"
#include "spmm/rows16.hpp"
#include "spmm/sliding.hpp"
#include "spmm/tiles.hpp"
#include "support/aligned_buffer.hpp"
#include "support/lazy.hpp"
#include "tersor/spmm.hpp"

namespace tersor {

struct PackedMatrix::Layout {
    Isa isa = Isa::scalar;
    std::uint32_t rows = 0;
    std::uint32_t cols = 0;
    std::size_t nonzeros = 0;
    support::AlignedBuffer<float> codebook;  // [256], zeros past its end; empty for plain weights
    std::size_t codebook_size = 0;
    support::AlignedBuffer<float> row_factors;     // [rows], or empty: all 1
    support::AlignedBuffer<float> column_factors;  // [cols], or empty: all 1
    support::Lazy<spmm::Rows16> rows16_made;
    support::Lazy<spmm::Sliding> sliding_made;
    support::Lazy<spmm::HighestRows> highest_made;
    support::Lazy<spmm::Panels> panels_made;
    support::Lazy<spmm::Panels> digit_panels_made;
    support::Lazy<spmm::Tiles> tiles_made;
    support::Lazy<PackedMatrix> transposed_made;
    support::Lazy<PackedMatrix> with_factors_inside_made;

    [[nodiscard]] bool has_factors() const noexcept {
        return row_factors.size() != 0 || column_factors.size() != 0;
    }
    /// A weight with the factors of its row and column.
    [[nodiscard]] float scaled(float weight, std::size_t row, std::size_t column) const noexcept {
        if (row_factors.size() != 0) weight *= row_factors[row];
        if (column_factors.size() != 0) weight *= column_factors[column];
        return weight;
    }

    /// The layout of the fp32 kernels, made from the other one unless it is there; without entries
    /// where neither is.
    [[nodiscard]] const spmm::Rows16& rows16() const;
    /// What is made of that layout, which is not kept where it is not there.
    template <class Make>
    [[nodiscard]] auto from_rows16(const Make& make) const {
        if (const spmm::Rows16* made = rows16_made.peek()) return make(*made);
        if (const spmm::Sliding* made = sliding_made.peek()) {
            return make(spmm::make_rows16(*made, rows, cols));
        }
        return make(spmm::Rows16{});
    }
    /// The layout of the fixed-point kernels; nullptr where this matrix or its instruction set has
    /// none. Like those below it is made by so many threads unless it is there.
    [[nodiscard]] const spmm::Sliding* sliding(int threads = 1) const;
    [[nodiscard]] bool fits_sliding() const noexcept;
    /// What `highest` needs beside the sliding layout, which must be there.
    [[nodiscard]] const spmm::HighestRows& highest_rows() const;
    /// The layout for batches; nullptr where this matrix has none.
    [[nodiscard]] const spmm::Panels* panels(int threads = 1) const;
    /// The same for one digit of x and of the weights; nullptr where the level has no such kernel.
    [[nodiscard]] const spmm::Panels* digit_panels(int threads = 1) const;

    /// The layout for matrix units; nullptr where the level or the matrix has none. It needs the
    /// sliding layout's numbers beside it.
    [[nodiscard]] const spmm::Tiles* tiles(int threads = 1) const;

    [[nodiscard]] spmm::Panels make_panels_of(const spmm::PanelEntries& entries, int threads) const;

    [[nodiscard]] spmm::BlockView view(const spmm::Rows16& layout,
                                       std::size_t block) const noexcept {
        const spmm::Block& b = layout.blocks[block];
        const bool shared = codebook.size() != 0;
        return {b.first_column, b.columns.data(), shared ? b.codes.data() : nullptr,
                shared ? codebook.data() : b.values.data(), b.row_starts.data()};
    }
};

}  // namespace tersor
