// The packed layout tiles, for matrix units: 16 rows by 64 columns of the matrix, expanded to bytes
// just before they are multiplied as if nothing had been pruned.
//
//   tile     16 masks of 64 bits        mask m: columns 4 m to 4 m + 3
//            bit 4 r + t                row r, column 4 m + t holds a weight
//   codes    in the order of the bits   8 bits each, or 4 where the codebook has at most 16 values
//   starts   codes before each group of 16 rows: even, so that no byte belongs to two groups
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "dispatch/architecture.hpp"
#include "spmm/fixed_point.hpp"
#include "spmm/rows/row_reader.hpp"
#include "support/aligned_buffer.hpp"

namespace tersor::spmm {

/// Whether any level of this build multiplies tiles: one that does not carries nothing for them.
inline constexpr bool has_tiles = TERSOR_AMX != 0;

inline constexpr std::size_t group_rows = 16;
inline constexpr std::size_t tile_columns = 64;
inline constexpr std::size_t tile_masks = 16;
inline constexpr std::size_t tile_bytes = 1024;  // expanded, a byte for each weight
inline constexpr std::size_t tile_vectors = 16;  // activation vectors of a tile of x

struct Tiles {
    support::AlignedBuffer<std::uint64_t> masks;  // [groups * blocks * 16]
    support::AlignedBuffer<std::uint8_t> codes;   // two a byte where the codebook allows it
    std::vector<std::uint64_t> starts;            // [groups + 1] of a group of rows, in codes: even
    std::size_t blocks = 0;                       // of 64 columns
    std::size_t values = 0;                       // in the codebook

    [[nodiscard]] bool nibbles() const noexcept { return values <= 16; }
    [[nodiscard]] std::size_t groups() const noexcept { return starts.size() - 1; }
    [[nodiscard]] std::size_t nbytes() const noexcept {
        return masks.nbytes() + codes.nbytes() + sizeof(std::uint64_t) * starts.size();
    }
};

[[nodiscard]] Tiles make_tiles(const RowReader& source, std::uint32_t rows, std::uint32_t cols,
                               std::size_t values, int threads);

/// Activations in limbs, as tiles of 16 vectors by 64 columns.
struct TileActivations {
    const std::uint8_t* limbs;  // [tiles of vectors][blocks][x_limbs][16 * 64]
    std::size_t vectors;
    const double* units;  // [vectors]: x = low + unit * limbs
    const double* lows;

    [[nodiscard]] std::size_t tiles() const noexcept {
        return (vectors + tile_vectors - 1) / tile_vectors;
    }
};

/// Where the products of tiles go, and what is added to them.
struct TileOutputs {
    float* y;  // [vectors, rows]
    std::size_t rows;
    const double* row_sums;  // [rows] of the weights
    const float* bias;       // [rows] or nullptr
};

/// Groups whose totals are kept side by side while a part of the activations stays in cache.
inline constexpr std::size_t groups_at_once = 16;

/// The most tiles of vectors that pass over the weights together, and their sums.
inline constexpr std::size_t most_x_tiles = 4;
inline constexpr std::size_t most_tile_sums = 6 * tile_vectors * group_rows;
inline constexpr std::size_t most_tile_totals = most_x_tiles * tile_vectors * group_rows;

/// What a call works in.
struct TileWork {
    std::int32_t* sums;  // [groups_at_once * most_tile_sums]
    double* totals;      // [groups_at_once * most_tile_totals]
};

}  // namespace tersor::spmm
