// Canonical code words, and the compact form in which a stream stores their lengths.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "tersor/huffman.hpp"

namespace tersor::huffman {

/// The longest code word in a stream: a look-up table of all its prefixes stays in L1.
inline constexpr int max_stream_length = 12;

/// Code words with the first bit lowest, the order in which streams hold them.
using CodeWords = std::array<std::uint16_t, alphabet_size>;

/// Whether the lengths make a complete prefix code (Kraft sum exactly one) of two symbols or more.
[[nodiscard]] bool is_complete(const CodeLengths& lengths) noexcept;

/// Words in increasing order of length, then of symbol.
[[nodiscard]] CodeWords canonical_words(const CodeLengths& lengths) noexcept;

/// Appends the lengths: the last symbol, then a nibble each from symbol 0; a zero nibble is
/// followed by one that counts the further zeros.
void append_lengths(const CodeLengths& lengths, std::vector<std::uint8_t>& out);

/// Reads what `append_lengths` wrote; `count` is the bytes read when ok, or the faulty byte.
[[nodiscard]] Result read_lengths(std::span<const std::uint8_t> bytes,
                                  CodeLengths& lengths) noexcept;

/// What the bits of a window begin with.
struct Prefix {
    std::uint8_t symbol;
    std::uint8_t length;
};

/// Maps every window of `bits` bits to the symbol whose word it begins with.
struct DecodeTable {
    int bits = 0;
    std::array<Prefix, std::size_t{1} << max_stream_length> prefixes;
};

/// `lengths` must be complete and no longer than `max_stream_length`.
void build_table(const CodeLengths& lengths, DecodeTable& table) noexcept;

}  // namespace tersor::huffman
