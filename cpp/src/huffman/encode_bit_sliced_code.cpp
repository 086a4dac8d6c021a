// The header of a bit-sliced code, and what its words take.
#include "huffman/bit_sliced_code.hpp"
#include "huffman/bits.hpp"

namespace tersor::huffman {
namespace {

/// Calls `visit(symbol, extra)` for each symbol that ends in a stage, with its suffix bits.
template <class Visit>
void for_each_word(const Stage& stage, const Visit& visit) {
    for (unsigned index = 0; index < 1U << stage.bits(); ++index) {
        const std::uint8_t symbol = stage.symbols[index];
        if (stage.indices[symbol] != index) continue;  // an index that no symbol has
        int extra = 0;
        while (index >> stage.suffixes >= stage.first_root_above(extra)) ++extra;
        visit(symbol, extra);
    }
}

}  // namespace

std::uint64_t coded_bits(const BitSlicedCode& code, const Histogram& histogram) noexcept {
    std::uint64_t bits = 0;
    std::uint64_t left = 0;
    for (const std::uint64_t count : histogram) left += count;
    for (const Stage& stage : code.stages) {
        bits += left * static_cast<unsigned>(stage.planes);
        for_each_word(stage, [&](std::uint8_t symbol, int extra) {
            left -= histogram[symbol];
            bits += histogram[symbol] * static_cast<unsigned>(extra);
        });
    }
    return bits;
}

void append_bit_sliced_code(const BitSlicedCode& code, std::vector<std::uint8_t>& out) {
    out.push_back(code.last_symbol);
    for (const Stage& stage : code.stages) {
        const unsigned shape = static_cast<unsigned>(stage.planes - 1) |
                               (static_cast<unsigned>(stage.suffixes) << 3) |
                               ((stage.tail ? 1U : 0U) << 5);
        out.push_back(static_cast<std::uint8_t>(shape));
        for (int l = 0; l < stage.suffixes; ++l) {
            out.push_back(static_cast<std::uint8_t>(stage.first_root_above(l)));
        }
    }
    const std::vector<WordClass> classes = classes_of(code);
    std::array<std::uint8_t, alphabet_size> of_symbols{};
    for (std::size_t c = 0; c < classes.size(); ++c) {
        for_each_word(code.stages[classes[c].stage], [&](std::uint8_t symbol, int extra) {
            if (extra == classes[c].extra) of_symbols[symbol] = static_cast<std::uint8_t>(c + 1);
        });
    }
    append_fields(std::span(of_symbols).first(std::size_t{code.last_symbol} + 1),
                  class_width(classes.size()), out);
}

}  // namespace tersor::huffman
