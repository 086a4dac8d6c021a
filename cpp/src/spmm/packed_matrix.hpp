// What a packed matrix holds: one layout, and others from when they are first needed.
#pragma once

#include <cstdint>
#include <span>

#include "spmm/csr16/layout.hpp"
#include "spmm/panels/layout.hpp"
#include "spmm/sell/highest.hpp"
#include "spmm/sell/layout.hpp"
#include "spmm/tiles/layout.hpp"
#include "support/aligned_buffer.hpp"
#include "support/attachments.hpp"
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
    bool integers = false;                         // the codebook's values are multiples of a step
    support::AlignedBuffer<float> row_factors;     // [rows], or empty: all 1
    support::AlignedBuffer<float> column_factors;  // [cols], or empty: all 1
    support::Lazy<spmm::Csr16> lazy_csr16;
    support::Lazy<spmm::Sell> lazy_sell;
    support::Lazy<spmm::HighestRows> lazy_highest;
    support::Lazy<spmm::Panels> lazy_panels;
    support::Lazy<spmm::Panels> lazy_limb_panels;
    support::Lazy<spmm::Tiles> lazy_tiles;
    support::Lazy<PackedMatrix> lazy_transposed;
    support::Lazy<PackedMatrix> lazy_with_factors_inside;
    support::Attachments convolutions;  // plans, by geometry and class

    /// Values as `pack` checks them.
    void set_codebook(std::span<const float> values);

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
    [[nodiscard]] const spmm::Csr16& csr16() const;
    /// What is made of that layout, which is not kept where it is not there.
    template <class Make>
    [[nodiscard]] auto from_csr16(const Make& make) const {
        if (const spmm::Csr16* packed = lazy_csr16.peek()) return make(*packed);
        if (const spmm::Sell* packed = lazy_sell.peek()) {
            return make(spmm::make_csr16(*packed, rows, cols));
        }
        return make(spmm::Csr16{});
    }
    /// The layout of the fixed-point kernels; nullptr where this matrix or its instruction set has
    /// none. Like those below it is made by `threads` threads unless it is there.
    [[nodiscard]] const spmm::Sell* sell(int threads = 1) const;
    [[nodiscard]] bool fits_sell() const noexcept;
    /// Whether that layout holds integers instead of codes.
    [[nodiscard]] bool runs_integers() const noexcept;
    /// What `highest` needs beside the SELL layout, which must be there.
    [[nodiscard]] const spmm::HighestRows& highest_rows() const;
    /// The layout for batches; nullptr where this matrix has none.
    [[nodiscard]] const spmm::Panels* panels(int threads = 1) const;
    /// The same for one limb of x and of the weights; nullptr where the level has no such kernel.
    [[nodiscard]] const spmm::Panels* limb_panels(int threads = 1) const;

    /// The layout for matrix units; nullptr where the level or the matrix has none. It needs the
    /// SELL layout's numbers beside it.
    [[nodiscard]] const spmm::Tiles* tiles(int threads = 1) const;

    [[nodiscard]] spmm::Panels make_panels_of(const spmm::PanelEntries& entries, int threads) const;

    [[nodiscard]] spmm::BlockView view(const spmm::Csr16& layout,
                                       std::size_t block) const noexcept {
        const spmm::Block& b = layout.blocks[block];
        const bool shared = codebook.size() != 0;
        return {b.first_column, b.columns.data(), shared ? b.codes.data() : nullptr,
                shared ? codebook.data() : b.values.data(), b.row_starts.data()};
    }
};

}  // namespace tersor
