#include "huffman/plane_code.hpp"

#include <algorithm>
#include <bit>

#include "huffman/bits.hpp"
#include "support/varint.hpp"

namespace tersor::huffman {
namespace {

/// The words of one length of a stage: the stage, its level bits, and how many the shape has.
struct WordClass {
    std::size_t stage;
    int extra;
    unsigned capacity;
};

/// Every class that has words, by stage and length. A symbol's class is all that a header tells of
/// it: the words of a class are given out in the order of the symbols.
std::vector<WordClass> classes_of(const PlaneCode& code) {
    std::vector<WordClass> classes;
    for (std::size_t s = 0; s < code.stages.size(); ++s) {
        for (int extra = 0; extra <= code.stages[s].levels; ++extra) {
            const unsigned capacity = code.stages[s].capacity(extra);
            if (capacity > 0) classes.push_back({s, extra, capacity});
        }
    }
    return classes;
}

/// Bits that name a class; 0 is for symbols without a word.
int class_width(std::size_t classes) noexcept { return static_cast<int>(std::bit_width(classes)); }

/// Calls `visit(symbol, extra)` for each symbol that ends in a stage, with its level bits.
template <class Visit>
void for_each_word(const Stage& stage, const Visit& visit) {
    for (unsigned index = 0; index < 1U << stage.bits(); ++index) {
        const std::uint8_t symbol = stage.symbols[index];
        if (stage.indices[symbol] != index) continue;  // an index that no symbol has
        int extra = 0;
        while (index >> stage.levels >= stage.first_root_above(extra)) ++extra;
        visit(symbol, extra);
    }
}

}  // namespace

void assign_words(Stage& stage, std::span<const std::uint8_t> ending,
                  std::span<const std::uint8_t> later, std::uint8_t last_symbol) noexcept {
    stage.last_symbol = last_symbol;
    stage.symbols.fill(ending.empty() ? std::uint8_t{0} : ending[0]);
    std::size_t next = 0;
    unsigned root = 0;
    for (int extra = 0; extra <= stage.levels; ++extra) {
        for (; root < stage.first_root_above(extra); ++root) {
            for (unsigned bits = 0; bits < 1U << extra && next < ending.size(); ++bits, ++next) {
                const unsigned index = (root << stage.levels) | (bits << (stage.levels - extra));
                stage.symbols[index] = ending[next];
                stage.indices[ending[next]] = static_cast<std::uint8_t>(index);
            }
        }
    }
    for (const std::uint8_t symbol : later) stage.indices[symbol] = stage.tail_index();
}

std::uint64_t coded_bits(const PlaneCode& code, const Histogram& histogram) noexcept {
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

void append_plane_code(const PlaneCode& code, std::vector<std::uint8_t>& out) {
    out.push_back(code.last_symbol);
    for (const Stage& stage : code.stages) {
        const unsigned shape = static_cast<unsigned>(stage.planes - 1) |
                               (static_cast<unsigned>(stage.levels) << 3) |
                               ((stage.tail ? 1U : 0U) << 5);
        out.push_back(static_cast<std::uint8_t>(shape));
        for (int l = 0; l < stage.levels; ++l) {
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

Result read_plane_code(std::span<const std::uint8_t> bytes, PlaneCode& code) {
    code = {};
    support::Cursor cursor(bytes);
    code.last_symbol = cursor.byte();
    do {
        Stage stage;
        const std::uint8_t shape = cursor.byte();
        stage.planes = (shape & 7) + 1;
        stage.levels = (shape >> 3) & 3;
        stage.tail = (shape >> 5) != 0;
        bool fits =
            shape >> 6 == 0 && stage.bits() <= max_stage_bits && code.stages.size() < max_stages;
        unsigned least = 0;
        for (int l = 0; l < stage.levels; ++l) {
            const unsigned root = cursor.byte();
            fits = fits && least <= root && root < stage.ending_roots();
            stage.level_roots[static_cast<std::size_t>(l)] = static_cast<std::uint16_t>(root);
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
