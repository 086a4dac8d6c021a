// A blob taken apart, and what its writer and its reader agree on; docs/format.md has the bytes.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <span>
#include <vector>

#include "huffman/canonical.hpp"
#include "huffman/plane_block.hpp"
#include "lossless/layout.hpp"
#include "tersor/lossless.hpp"

namespace tersor::lossless {

/// The signature of all blobs, and the version of these.
inline constexpr std::array<std::uint8_t, 3> magic = {'T', 'S', 'R'};
inline constexpr std::uint8_t format_version = 0x21;
inline constexpr std::size_t checksum_bytes = 4;
inline constexpr std::size_t max_dimensions = 8;
inline constexpr int min_block_log2 = 10;
inline constexpr int max_block_log2 = 20;

/// How the tensor is stored, in the upper bits of the byte of its type.
enum class Form : std::uint8_t { plain, blocks };
inline constexpr int form_shift = 5;
inline constexpr std::uint8_t type_mask = (1U << form_shift) - 1;

/// How a field is stored.
enum class FieldKind : std::uint8_t {
    constant,  // one byte for all elements
    plain,     // as it is
    words,     // canonical words
    sliced,    // blocks of the bit-sliced prefix code
    pairs,     // the same over pairs of symbols below 16
};

[[nodiscard]] constexpr bool is_coded(FieldKind kind) noexcept { return kind >= FieldKind::words; }
[[nodiscard]] constexpr bool is_sliced(FieldKind kind) noexcept {
    return kind >= FieldKind::sliced;
}

/// The code of the blocks from one on, as far as the next one's.
struct BlocksCode {
    std::size_t first = 0;
    huffman::BlockCode code;
};

struct FieldCode {
    FieldKind kind = FieldKind::plain;
    std::uint8_t constant = 0;
    huffman::CodeLengths lengths{};  // words
    std::vector<BlocksCode> codes;   // sliced and pairs: the first is that of block 0

    [[nodiscard]] const huffman::BlockCode& code_of(std::size_t block) const noexcept {
        const auto next =
            std::upper_bound(codes.begin(), codes.end(), block,
                             [](std::size_t b, const BlocksCode& code) { return b < code.first; });
        return std::prev(next)->code;
    }
};

/// The bytes of a field in each block: 0 where the field is stored there as it is.
struct BlockSizes {
    std::array<std::uint32_t, max_fields> coded{};
};

struct ParsedBlob {
    std::uint8_t type = 0;
    std::vector<std::uint64_t> shape;
    std::uint64_t bytes = 0;     // of the tensor
    std::uint64_t elements = 0;  // of the layout's width
    Form form = Form::plain;
    Layout layout;
    int block_log2 = max_block_log2;
    std::array<FieldCode, max_fields> fields;
    std::size_t payload = 0;  // where the blocks begin, or the plain bytes
    std::vector<BlockSizes> sizes;
    std::vector<std::size_t> starts;  // of the blocks in the blob, and where the last one ends

    [[nodiscard]] std::size_t block_elements() const noexcept {
        return std::size_t{1} << block_log2;
    }
    [[nodiscard]] std::size_t elements_of(std::size_t block) const noexcept {
        const std::uint64_t left = elements - (std::uint64_t{block} << block_log2);
        return static_cast<std::size_t>(std::min<std::uint64_t>(left, block_elements()));
    }
    /// Whether nothing but the head is stored.
    [[nodiscard]] bool all_constant() const noexcept {
        return std::all_of(fields.begin(),
                           fields.begin() + static_cast<std::ptrdiff_t>(layout.width),
                           [](const FieldCode& f) { return f.kind == FieldKind::constant; });
    }
};

/// Whether a field of a block stands in the part that the block's checksum covers: blocks of the
/// bit-sliced code have their own.
[[nodiscard]] inline bool is_covered(const FieldCode& field, std::uint32_t coded) noexcept {
    return field.kind != FieldKind::constant && (!is_sliced(field.kind) || coded == 0);
}

[[nodiscard]] std::uint32_t checksum(std::span<const std::uint8_t> bytes) noexcept;

/// Takes a blob apart and checks that its parts fill it; the checksum of the head with it where
/// `verify`, that of a plain tensor's bytes included.
[[nodiscard]] Result parse(std::span<const std::uint8_t> blob, ParsedBlob& parsed, bool verify);

/// Where the fields of a block of `parsed` stand, and its checksum where `verify`; blocks of the
/// bit-sliced code are checked when they are decoded.
[[nodiscard]] Result take_apart(std::span<const std::uint8_t> blob, const ParsedBlob& parsed,
                                std::size_t block, bool verify,
                                std::array<std::span<const std::uint8_t>, max_fields>& parts);

/// The head as far as the shape.
[[nodiscard]] Result parse_start(std::span<const std::uint8_t> blob, ParsedBlob& parsed);

}  // namespace tersor::lossless
