// What packed rows hold.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "support/aligned_buffer.hpp"
#include "tersor/rows.hpp"

namespace tersor {

namespace rows {

/// Codes that stand together: as many bytes as a code has bits.
inline constexpr std::size_t group = 8;

/// What codes stand for, in the forms that the kernels read.
struct Codebook {
    /// Vector kernels take this many codes at a time.
    static constexpr std::size_t lanes = 64;

    int bits = 8;
    alignas(64) float values[256] = {};            // zeros behind the last one
    alignas(64) std::uint8_t planes[4][256] = {};  // the bytes of the values, the lowest first
    /// For each byte of a vector: which byte of the codes comes there, so that each 8 bytes begin
    /// with a group; and the first bit of its code among the 64 of these.
    alignas(64) std::uint8_t spread[lanes] = {};
    alignas(64) std::uint8_t shifts[lanes] = {};
};

/// Little-endian bit strings: code i of a row begins at its bit i * bits.
struct Codes {
    support::AlignedBuffer<std::uint8_t> bytes;  // [rows, stride]
    std::size_t stride = 0;
};

}  // namespace rows

struct PackedRows::Layout {
    rows::Codebook codebook;
    std::size_t codebook_size = 0;
    std::shared_ptr<const rows::Codes> codes;
    std::shared_ptr<const support::AlignedBuffer<float>> factors;  // [rows]; nullptr = all 1
    std::uint32_t rows = 0;
    std::uint32_t cols = 0;
    Isa isa = Isa::scalar;
};

}  // namespace tersor
