// What short streams and headers are written with.
#include "huffman/bits.hpp"
#include "huffman/words.hpp"

namespace tersor::huffman {

void append_fields(std::span<const std::uint8_t> fields, int width,
                   std::vector<std::uint8_t>& out) {
    BitWriter writer(out);
    for (const std::uint8_t field : fields) writer.put(field, width);
    writer.flush();
}

void append_lengths(const CodeLengths& lengths, std::vector<std::uint8_t>& out) {
    std::size_t last = alphabet_size - 1;
    while (lengths[last] == 0) --last;
    out.push_back(static_cast<std::uint8_t>(last));
    bool half = false;  // whether the low nibble of the last byte is taken
    const auto append = [&](std::uint8_t nibble) {
        if (half) {
            out.back() = static_cast<std::uint8_t>(out.back() | (nibble << 4));
        } else {
            out.push_back(nibble);
        }
        half = !half;
    };
    for (std::size_t s = 0; s <= last; ++s) {
        append(lengths[s]);
        if (lengths[s] != 0) continue;
        std::size_t further = 0;
        while (further < 15 && lengths[s + 1 + further] == 0) ++further;
        append(static_cast<std::uint8_t>(further));
        s += further;
    }
}

void append_words(std::span<const std::uint8_t> symbols, const CodeLengths& lengths,
                  std::vector<std::uint8_t>& out) {
    const CodeWords words = canonical_words(lengths);
    BitWriter writer(out);
    for (const std::uint8_t s : symbols) writer.put(words[s], lengths[s]);
    writer.flush();
}

}  // namespace tersor::huffman
