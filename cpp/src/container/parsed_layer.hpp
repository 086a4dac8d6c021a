// A layer's blob taken apart, its streams not yet decoded.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "container/factors.hpp"
#include "container/layer_parts.hpp"
#include "tersor/huffman.hpp"
#include "tersor/layer.hpp"
#include "tersor/spmm.hpp"

namespace tersor::layer_parts {

/// A blob taken apart; streams not decoded yet.
struct ParsedLayer {
    std::vector<std::uint64_t> shape;
    MatrixShape matrix;
    ValueKind kind = ValueKind::shared_fp32;
    int index_bits = 0;
    bool flat = false;
    Entropy entropy = Entropy::huffman;
    std::uint64_t value_count = 0;
    std::uint64_t fillers = 0;  // announced; only decoding finds out. 0 where none are stored
    std::size_t fillers_offset = 0;
    FactorList row_factors, column_factors;
    std::size_t factor_bytes = 0;
    std::span<const std::uint8_t> values, codes, gaps, row_lengths;  // codes alone with contexts
    huffman::StreamInfo code_info, gap_info, row_length_info;
};

[[nodiscard]] std::size_t offset_of(std::span<const std::uint8_t> part,
                                    std::span<const std::uint8_t> blob) noexcept;

/// What tells a blob of this version: the only bytes believed before the hash.
[[nodiscard]] Result check_signature(std::span<const std::uint8_t> blob) noexcept;

[[nodiscard]] Result check_hash(std::span<const std::uint8_t> blob) noexcept;

/// Takes a blob with a good signature apart.
[[nodiscard]] Result parse_layer(std::span<const std::uint8_t> blob, ParsedLayer& parsed);

/// What decoding holds at once: codes, gaps, the bytes of the row lengths, these, the values; of a
/// vector, which is made dense, codes and values of all elements; and what contexts work with.
[[nodiscard]] std::uint64_t decoded_bytes(const ParsedLayer& parsed) noexcept;

/// How a tensor of that shape is packed: filters for batches.
[[nodiscard]] LayoutHint layout_hint_of(std::span<const std::uint64_t> shape) noexcept;

/// The most that packing holds besides, on the level in use.
[[nodiscard]] std::uint64_t packing_bytes(const ParsedLayer& parsed);

/// The symbols of a stream of the blob from `first` on.
[[nodiscard]] Result decode_stream(std::span<const std::uint8_t> stream,
                                   std::span<const std::uint8_t> blob,
                                   std::vector<std::uint8_t>& symbols, std::uint64_t first,
                                   std::uint64_t count, int threads);

[[nodiscard]] Result decode_row_lengths(const ParsedLayer& parsed,
                                        std::span<const std::uint8_t> blob,
                                        std::vector<std::uint32_t>& lengths, int threads);

/// The code of each weight of a blob with contexts, row by row; what it needs was checked before.
[[nodiscard]] Result decode_contexts(const ParsedLayer& parsed, std::span<const std::uint8_t> blob,
                                     std::vector<std::uint8_t>& codes);

/// Appends `count` values from `first` on.
[[nodiscard]] Result read_values(const ParsedLayer& parsed, std::span<const std::uint8_t> blob,
                                 std::uint64_t first, std::uint64_t count,
                                 std::vector<float>& values);

}  // namespace tersor::layer_parts
