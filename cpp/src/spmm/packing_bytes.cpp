#include "spmm/packing_bytes.hpp"

#include <algorithm>

#include "spmm/crossovers.hpp"
#include "spmm/csr16/layout.hpp"
#include "spmm/rows/entries.hpp"
#include "spmm/sell/layout.hpp"

namespace tersor::spmm {
namespace {

/// What is kept of a row beside its entries: where it begins, its place in the order, its sums.
constexpr std::uint64_t row_bytes = sizeof(RowStatistics) + 64;

/// By how much the parts of a layout, or of a block of it, are rounded up.
constexpr std::uint64_t rounding = 1024;

std::uint64_t csr16_bytes(std::uint64_t rows, std::uint64_t cols, std::uint64_t nonzeros,
                          bool shared) noexcept {
    const std::uint64_t blocks = std::min(cols / block_columns + 1, nonzeros);
    const std::uint64_t entry = sizeof(std::uint16_t) + (shared ? 1 : sizeof(float));
    const std::uint64_t index = (cols / block_columns + 1) * sizeof(std::uint32_t);
    return nonzeros * entry + index + blocks * ((rows + 1) * sizeof(std::uint64_t) + rounding);
}

/// A step takes an entry at least. While one takes four of each row at most, a window is passed
/// after as many steps as it has columns by four; and steps without entries lead over gaps.
std::uint64_t sell_bytes(std::uint64_t rows, std::uint64_t cols, std::uint64_t nonzeros,
                         std::size_t codebook_size, const SellShape& shape) noexcept {
    const std::uint64_t slices = (rows + slice_rows - 1) / slice_rows;
    const std::uint64_t dense =
        (cols / shape.window_columns + 1) * shape.window_columns / row_slots;
    const std::uint64_t empty = cols / (std::uint64_t{max_advance} * shape.window_grain) + 2;
    const std::uint64_t steps = std::min(nonzeros, slices * dense) + slices * empty;
    const std::uint64_t entries = steps * (pair_bytes(codebook_size <= 16) / 2 + 1);
    return entries * 3;  // the memory for a group's grows by halves, and is then copied
}

/// Whole slices of rows, and the entries of one for each thread.
std::uint64_t dense_bytes(std::uint64_t rows, std::uint64_t cols,
                          std::size_t codebook_size) noexcept {
    const std::uint64_t padded = (rows + slice_rows - 1) / slice_rows * slice_rows;
    const int bits = dense_codes::code_bits(codebook_size);
    const std::uint64_t row = dense_codes::row_bytes(static_cast<std::size_t>(cols), bits);
    return padded * row + 16 * (cols + 64);
}

}  // namespace

std::uint64_t packing_bytes(std::uint32_t rows, std::uint32_t cols, std::uint64_t nonzeros,
                            std::size_t codebook_size, LayoutHint layout_hint) {
    const std::uint64_t weights = std::uint64_t{rows} * cols;
    const std::uint64_t most = std::min(nonzeros, weights);
    if (most > UINT64_MAX / 1024) return UINT64_MAX;
    const Isa isa = isa_in_use();
    const bool slides = layout_hint == LayoutHint::vector && cols <= max_sell_columns &&
                        fits_sell(isa, codebook_size, most, weights, false);
    const std::uint64_t bytes = 256 * sizeof(float) + rounding + rows * row_bytes;
    if (!slides) return bytes + csr16_bytes(rows, cols, most, codebook_size != 0);
    const SellShape shape = shape_for(sell_shape(isa), codebook_size, most, weights, false);
    if (shape.dense) return bytes + dense_bytes(rows, cols, codebook_size);
    return bytes + sell_bytes(rows, cols, most, codebook_size, shape);
}

}  // namespace tersor::spmm
