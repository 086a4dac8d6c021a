// One compressed tensor as one self-describing blob: the unit that files and state_dicts hold.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "tersor/csr.hpp"
#include "tersor/status.hpp"

namespace tersor {

/// How the non-zero weights of a layer are stored.
enum class ValueKind : std::uint8_t {
    shared_fp32,  // codes into a codebook of fp32 values
    shared_fp16,  // codes into a codebook of fp16 values
    plain_fp32,   // pruned but not shared: one fp32 value per non-zero
    plain_fp16,
};

[[nodiscard]] constexpr bool is_shared(ValueKind kind) noexcept {
    return kind == ValueKind::shared_fp32 || kind == ValueKind::shared_fp16;
}

/// How a blob codes the places and codes of the non-zeros.
enum class Entropy : std::uint8_t {
    huffman,   // in blocks that decode alone, some symbols a nanosecond
    smallest,  // by an adaptive range coder, 50 to 200 ns a weight: 5 to 15 % fewer bytes
};

/// The decoded, canonical content of a blob: a tensor seen as shape[0] rows.
struct Layer {
    std::vector<std::uint64_t> shape;  // of the dense tensor; rows = shape[0], cols = the rest
    ValueKind kind = ValueKind::shared_fp32;
    RelativeCsr csr;            // codes are 0 or 1 for the plain kinds
    std::vector<float> values;  // shared: codebook[1..k], without the zero; plain: [non-zeros]
    // The weight of row r and column k is row_factors[r] * value * column_factors[k]; either is
    // empty (all 1) or has a factor for each.
    // NOLINTBEGIN(readability-redundant-member-init): so that aggregates may leave them out
    std::vector<float> row_factors = {};
    std::vector<float> column_factors = {};
    // NOLINTEND(readability-redundant-member-init)
    Entropy entropy = Entropy::huffman;  // smallest only for shared weights

    friend bool operator==(const Layer&, const Layer&) = default;
};

/// Where the bytes of a blob go; all counted on the real streams. Sizes in bytes unless named bits.
struct LayerInfo {
    std::vector<std::uint64_t> shape;
    ValueKind kind = ValueKind::shared_fp32;
    int index_bits = 0;
    bool flat = false;
    Entropy entropy = Entropy::huffman;
    std::uint64_t weights = 0;  // elements of the dense tensor
    std::uint64_t nonzeros = 0;
    std::uint64_t entries = 0;   // non-zeros and fillers
    std::uint64_t clusters = 0;  // values in the codebook, the zero not counted; 0 for plain kinds
    std::uint64_t header_bytes = 0;  // fixed fields, hash
    std::uint64_t value_bytes = 0;   // codebook or plain values
    std::uint64_t factor_bytes = 0;  // of rows and columns; 0 where there are none
    std::uint64_t code_bytes = 0;    // Huffman stream of the codes: table and words; where the
                                     // entropy is smallest, all that is coded, fillers not at all
    std::uint64_t code_bits = 0;     // words alone
    std::uint64_t gap_bytes = 0;
    std::uint64_t gap_bits = 0;
    std::uint64_t row_length_bytes = 0;
    std::uint64_t total_bytes = 0;
    std::uint64_t decoded_bytes = 0;  // what decoding holds: see decode_layer
    std::uint64_t packing_bytes = 0;  // the most that packing holds besides, on the level in use
};

/// Throws std::invalid_argument for a layer that breaks the rules above.
[[nodiscard]] std::vector<std::uint8_t> encode_layer(const Layer& layer);

/// Whether the bytes start like a blob; says nothing about the rest.
[[nodiscard]] bool is_layer(std::span<const std::uint8_t> blob) noexcept;

/// What the content of `stored` bytes may take in memory where the caller gives no bound of
/// their own: a few bytes can announce any number of rows, or of equal symbols. Coded symbols that
/// differ are 16 for each byte at most and take up to 16 bytes each, decoded and packed.
[[nodiscard]] constexpr std::size_t default_max_bytes(std::size_t stored) noexcept {
    constexpr std::size_t believed = std::size_t{1} << 30;
    constexpr std::size_t per_byte = 256;
    return stored <= (SIZE_MAX - believed) / per_byte ? believed + per_byte * stored : SIZE_MAX;
}

/// Decodes and validates the whole blob, its hash before anything but magic and version; `count` is
/// the byte offset of a fault. `max_bytes` bounds the memory that the content takes while it is
/// decoded: a byte for each code, each gap and each byte of the row lengths' stream, four for each
/// row length, each value and each factor, five for each factor as it is stored; for a tensor
/// of one dimension, which is made dense, five for each element; and where the entropy is smallest,
/// one for each weight and eight for each column. A blob that announces more is
/// too_large, before any of that is allocated. Without a bound, `default_max_bytes` of the blob's
/// size is the bound; SIZE_MAX lifts it. What the Huffman decoder works with comes on top, in
/// proportion to the blob's size.
[[nodiscard]] Result decode_layer(std::span<const std::uint8_t> blob, Layer& layer,
                                  std::optional<std::size_t> max_bytes = std::nullopt,
                                  int threads = 1);

/// Decodes `count` rows from `first` on, as a layer with `count` rows. Of a blob that is stored by
/// rows only the blocks of its streams that hold them are decoded; of one that is flat, or not
/// shared, what stands before them as well; of one whose entropy is smallest, everything. Without
/// `verify` the hash over the whole blob is not checked: then the checksums of the blocks alone
/// tell damage. Throws std::invalid_argument when the layer has no such rows.
[[nodiscard]] Result decode_rows(std::span<const std::uint8_t> blob, std::size_t first,
                                 std::size_t count, Layer& layer, bool verify = true,
                                 std::optional<std::size_t> max_bytes = std::nullopt,
                                 int threads = 1);

/// Counts the bytes of a blob without decoding any; checks the hash, and that first, only when
/// `verify`. The number of non-zeros is the announced one: `decode_layer` finds out whether it is
/// true.
[[nodiscard]] Result inspect_layer(std::span<const std::uint8_t> blob, LayerInfo& info,
                                   bool verify = false);

}  // namespace tersor
