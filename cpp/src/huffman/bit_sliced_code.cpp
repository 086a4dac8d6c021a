#include "huffman/bit_sliced_code.hpp"

#include <algorithm>

#include "huffman/bits.hpp"
#include "support/varint.hpp"

namespace tersor::huffman {
std::vector<WordClass> classes_of(const BitSlicedCode& code) {
    std::vector<WordClass> classes;
    for (std::size_t s = 0; s < code.stages.size(); ++s) {
        for (int extra = 0; extra <= code.stages[s].suffixes; ++extra) {
            const unsigned capacity = code.stages[s].capacity(extra);
            if (capacity > 0) classes.push_back({s, extra, capacity});
        }
    }
    return classes;
}

void assign_words(Stage& stage, std::span<const std::uint8_t> ending,
                  std::span<const std::uint8_t> later, std::uint8_t last_symbol) noexcept {
    stage.last_symbol = last_symbol;
    stage.symbols.fill(ending.empty() ? std::uint8_t{0} : ending[0]);
    std::size_t next = 0;
    unsigned root = 0;
    for (int extra = 0; extra <= stage.suffixes; ++extra) {
        for (; root < stage.first_root_above(extra); ++root) {
            for (unsigned bits = 0; bits < 1U << extra && next < ending.size(); ++bits, ++next) {
                const unsigned index =
                    (root << stage.suffixes) | (bits << (stage.suffixes - extra));
                stage.symbols[index] = ending[next];
                stage.indices[ending[next]] = static_cast<std::uint8_t>(index);
            }
        }
    }
    for (const std::uint8_t symbol : later) stage.indices[symbol] = stage.tail_index();
}

Result read_bit_sliced_code(std::span<const std::uint8_t> bytes, BitSlicedCode& code) {
    code = {};
    support::Cursor cursor(bytes);
    code.last_symbol = cursor.byte();
    do {
        Stage stage;
        const std::uint8_t shape = cursor.byte();
        stage.planes = (shape & 7) + 1;
        stage.suffixes = (shape >> 3) & 3;
        stage.tail = (shape >> 5) != 0;
        bool fits =
            shape >> 6 == 0 && stage.bits() <= max_stage_bits && code.stages.size() < max_stages;
        unsigned least = 0;
        for (int l = 0; l < stage.suffixes; ++l) {
            const unsigned root = cursor.byte();
            fits = fits && least <= root && root < stage.ending_roots();
            stage.suffix_roots[static_cast<std::size_t>(l)] = static_cast<std::uint16_t>(root);
            least = root;
        }
        if (!cursor.ok()) return cursor.result();
        if (!fits) return {Status::bad_code_lengths, cursor.position() - 1};
        code.stages.push_back(stage);
    } while (code.stages.back().tail);

    std::array<std::uint8_t, alphabet_size> memory{};
    const std::span<std::uint8_t> of_symbols =
        std::span(memory).first(std::size_t{code.last_symbol} + 1);
    const std::vector<WordClass> classes = classes_of(code);
    const int width = class_width(classes.size());
    const std::span<const std::uint8_t> packed = cursor.take(fields_size(of_symbols.size(), width));
    if (!cursor.ok()) return cursor.result();
    const Result fault{Status::bad_code_lengths, cursor.position() - 1};
    if (!read_fields(packed, width, of_symbols).ok()) return fault;
    if (of_symbols.back() == 0) return fault;  // the last symbol has a word
    std::vector<std::vector<std::uint8_t>> members(classes.size());
    for (std::size_t symbol = 0; symbol < of_symbols.size(); ++symbol) {
        const std::uint8_t kind = of_symbols[symbol];
        if (kind > members.size()) return fault;
        if (kind > 0) members[kind - 1U].push_back(static_cast<std::uint8_t>(symbol));
    }
    // Only the last stage may have words to spare, and those of its longer lengths first.
    std::vector<std::uint8_t> order;
    std::array<std::size_t, max_stages> words{};
    bool full = true;
    for (std::size_t c = 0; c < classes.size(); ++c) {
        const std::size_t size = members[c].size();
        const bool last_stage = classes[c].stage + 1 == code.stages.size();
        if (size > classes[c].capacity || (!full && size > 0)) return fault;
        full = full && size == classes[c].capacity;
        if (!full && !last_stage) return fault;
        words[classes[c].stage] += size;
        order.insert(order.end(), members[c].begin(), members[c].end());
    }
    std::size_t first = 0;
    for (std::size_t s = 0; s < code.stages.size(); ++s) {
        if (words[s] == 0) return fault;
        assign_words(code.stages[s], std::span(order).subspan(first, words[s]),
                     std::span(order).subspan(first + words[s]), code.last_symbol);
        first += words[s];
    }
    return {Status::ok, cursor.position()};
}

}  // namespace tersor::huffman
