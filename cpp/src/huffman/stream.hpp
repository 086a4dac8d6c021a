// The self-describing stream: number of symbols, kind, table, code words. docs/format.md has the
// bytes.
#pragma once

#include <cstdint>

namespace tersor::huffman {

enum class StreamKind : std::uint8_t {
    constant,  // one symbol, repeated
    stored,    // a fixed number of bits each
    words,     // canonical words, one after the other
    planes,    // blocks of the bit-sliced code
    pairs,     // the same over pairs of symbols below 16
};
inline constexpr auto last_stream_kind = StreamKind::pairs;

}  // namespace tersor::huffman
