// The packed layout "rows16": blocks of 65,536 columns; in each, rows of 16-bit columns beside
// 8-bit codes (3 bytes per non-zero), or beside fp32 values where the weights are not shared (6
// bytes).
#pragma once

#include <cstdint>
#include <vector>

#include "support/aligned_buffer.hpp"
#include "tersor/spmm.hpp"

namespace tersor {
namespace spmm {

inline constexpr std::uint64_t block_columns = 65536;

/// One block as the kernels see it. Entry i of row r: row_starts[r] <= i < row_starts[r + 1].
struct BlockView {
    const std::uint16_t* columns;     // relative to the block
    const std::uint8_t* codes;        // nullptr where values are plain
    const float* values;              // [256] by code where codes are given, else by entry
    const std::uint64_t* row_starts;  // [rows + 1]

    /// The weight of entry i, where it is known whether codes are given.
    template <bool shared>
    [[nodiscard]] float weight(std::uint64_t i) const noexcept {
        if constexpr (shared) return values[codes[i]];
        return values[i];
    }
    [[nodiscard]] float weight(std::uint64_t i) const noexcept {
        return codes != nullptr ? weight<true>(i) : weight<false>(i);
    }
};

struct Block {
    support::AlignedBuffer<std::uint16_t> columns;
    support::AlignedBuffer<std::uint8_t> codes;
    support::AlignedBuffer<float> values;  // plain weights
    support::AlignedBuffer<std::uint64_t> row_starts;
};

}  // namespace spmm

struct PackedMatrix::Layout {
    Isa isa = Isa::scalar;
    std::uint32_t rows = 0;
    std::uint32_t cols = 0;
    std::size_t nonzeros = 0;
    support::AlignedBuffer<float> codebook;  // [256], zeros past its end; empty for plain weights
    std::vector<spmm::Block> blocks;

    [[nodiscard]] spmm::BlockView view(std::size_t block) const noexcept {
        const spmm::Block& b = blocks[block];
        const bool shared = codebook.size() != 0;
        return {b.columns.data(), shared ? b.codes.data() : nullptr,
                shared ? codebook.data() : b.values.data(), b.row_starts.data()};
    }
};

}  // namespace tersor
