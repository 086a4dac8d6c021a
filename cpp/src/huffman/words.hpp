// Canonical words one after the other: the code of short streams.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "huffman/canonical.hpp"
#include "tersor/status.hpp"

namespace tersor::huffman {

/// Appends the words of the symbols, padded with zero bits to a full byte.
void append_words(std::span<const std::uint8_t> symbols, const CodeLengths& lengths,
                  std::vector<std::uint8_t>& out);

/// Decodes bits which must hold exactly these symbols and zero padding to a full byte; `count` is
/// the byte offset of a fault.
[[nodiscard]] Result decode_words(std::span<const std::uint8_t> bits, const DecodeTable& table,
                                  std::span<std::uint8_t> symbols) noexcept;

}  // namespace tersor::huffman
