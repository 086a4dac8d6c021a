// Prefix coding of byte symbols into self-describing streams.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "tersor/status.hpp"

namespace tersor::huffman {

inline constexpr std::size_t alphabet_size = 256;
inline constexpr int max_code_length = 15;

using Histogram = std::array<std::uint64_t, alphabet_size>;
using CodeLengths = std::array<std::uint8_t, alphabet_size>;  // 0 = symbol does not occur

[[nodiscard]] Histogram histogram(std::span<const std::uint8_t> symbols);

/// Shannon entropy in bits per symbol; 0 for an empty histogram.
[[nodiscard]] double entropy(const Histogram& histogram) noexcept;

/// Lengths of an optimal prefix code with no word longer than `max_length` (package-merge, Larmore
/// and Hirschberg 1990). One symbol alone gets length 1. Throws std::invalid_argument when
/// `max_length` is out of 1..15 or too short for the number of symbols.
[[nodiscard]] CodeLengths code_lengths(const Histogram& histogram, int max_length);

/// Encodes to a self-describing stream that holds the number of symbols, a compact table and the
/// code words: canonical words where there are few symbols, and from some thousand on the plane
/// code, in blocks that decode alone. The same bytes for every instruction set and thread count.
[[nodiscard]] std::vector<std::uint8_t> encode(std::span<const std::uint8_t> symbols,
                                               int threads = 1);

/// What a stream announces, checked against its length but not decoded.
struct StreamInfo {
    std::uint64_t symbols = 0;        // decoded length
    std::size_t header_bytes = 0;     // everything before the code words: counts and table
    std::uint64_t payload_bits = 0;   // code words alone, the figure that papers count; a multiple
                                      // of 8: the padding to full bytes is in it, and so are
                                      // the few bytes at the head of each block
    std::uint64_t block_symbols = 1;  // decoded together: a range takes the time of whole blocks
};

/// Reads the header of the stream; `count` is the byte offset of a fault.
[[nodiscard]] Result inspect(std::span<const std::uint8_t> stream, StreamInfo& info);

struct DecodeOptions {
    int threads = 1;
    bool verify = true;  // the checksum of each block
};

/// Decodes the whole stream into `symbols`, which must have exactly `StreamInfo::symbols` elements
/// (size_mismatch otherwise). Every byte of the stream must be accounted for. `count` is the number
/// of symbols when ok and otherwise the byte offset of the fault.
[[nodiscard]] Result decode(std::span<const std::uint8_t> stream, std::span<std::uint8_t> symbols,
                            const DecodeOptions& options = {});

/// Decodes the symbols from `first` on; only the blocks that hold them are read.
[[nodiscard]] Result decode_range(std::span<const std::uint8_t> stream, std::size_t first,
                                  std::span<std::uint8_t> symbols,
                                  const DecodeOptions& options = {});

}  // namespace tersor::huffman
