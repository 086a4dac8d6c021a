// The decoding loops.
#pragma once

#include <array>
#include <cstdint>
#include <span>

#include "huffman/canonical.hpp"
#include "tersor/status.hpp"

namespace tersor::huffman {

/// Decodes one bit stream, which must hold exactly these symbols and zero padding to a full byte;
/// `count` is the byte offset of a fault.
[[nodiscard]] Result decode_words(std::span<const std::uint8_t> bits, const DecodeTable& table,
                                  std::span<std::uint8_t> symbols) noexcept;

/// The same for four streams at once; `faulty` is the number of the stream with the fault.
[[nodiscard]] Result decode_interleaved(const std::array<std::span<const std::uint8_t>, 4>& bits,
                                        const DecodeTable& table,
                                        const std::array<std::span<std::uint8_t>, 4>& symbols,
                                        std::size_t& faulty) noexcept;

}  // namespace tersor::huffman
