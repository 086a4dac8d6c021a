// A prefix code whose words can be stored bit by bit in planes: a chain of stages.
// docs/kernels/prefix_code.md has a picture.
#pragma once

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "tersor/huffman.hpp"

namespace tersor::huffman {

/// Bits of one word in one stage: planes and suffixes together.
inline constexpr int max_stage_bits = 8;
inline constexpr int max_suffixes = 3;
inline constexpr std::size_t max_stages = 16;

/// The word lengths of a stage. Its roots are the numbers of `planes` bits. The last of them, all
/// ones, stands for every symbol of the later stages where there is a later one. Each other root is
/// continued by one more bit for each suffix that begins at it or before it, so that lengths rise
/// with the roots.
struct Shape {
    int planes = 1;     // 1 to 8
    int suffixes = 0;   // 0 to 3
    bool tail = false;  // whether a later stage follows
    /// The first root that has a bit in each suffix; ascending, and below `ending_roots()`.
    std::array<std::uint16_t, max_suffixes> suffix_roots{};

    [[nodiscard]] int bits() const noexcept { return planes + suffixes; }
    [[nodiscard]] unsigned roots() const noexcept { return 1U << planes; }
    /// Roots of words that end in this stage.
    [[nodiscard]] unsigned ending_roots() const noexcept { return roots() - (tail ? 1U : 0U); }
    /// Where the roots with more than `extra` suffix bits begin.
    [[nodiscard]] unsigned first_root_above(int extra) const noexcept {
        return extra < suffixes ? suffix_roots[static_cast<std::size_t>(extra)] : ending_roots();
    }
    /// How many words the shape has with exactly `extra` suffix bits.
    [[nodiscard]] unsigned capacity(int extra) const noexcept {
        const unsigned first = extra == 0 ? 0 : first_root_above(extra - 1);
        return (first_root_above(extra) - first) << extra;
    }
    /// Words that the shape has room for; the code uses all of them but in its last stage.
    [[nodiscard]] unsigned capacity() const noexcept {
        unsigned words = 0;
        for (int extra = 0; extra <= suffixes; ++extra) words += capacity(extra);
        return words;
    }
    /// Whether a suffix takes the bits of the same symbols as the one before.
    [[nodiscard]] bool like_the_suffix_before(std::size_t suffix) const noexcept {
        return suffix > 0 && suffix_roots[suffix] == suffix_roots[suffix - 1];
    }
    [[nodiscard]] std::uint8_t tail_index() const noexcept {
        return static_cast<std::uint8_t>((roots() - 1) << suffixes);
    }
};

/// One stage of a code: a shape, and whose its words are.
struct Stage : Shape {
    std::uint8_t last_symbol = 255;  // of the code
    /// Index = root * 2^suffixes + suffix bits, the first in the highest place, zeros for those
    /// that a root does not have; the symbol with that word.
    std::array<std::uint8_t, std::size_t{1} << max_stage_bits> symbols{};
    /// The inverse; symbols of later stages have the index of the tail's root.
    std::array<std::uint8_t, alphabet_size> indices{};
};

/// The stages, and the largest symbol that has a word.
struct BitSlicedCode {
    std::vector<Stage> stages;
    std::uint8_t last_symbol = 0;
};

/// The code that costs least, where bits are priced 1 and cycles as build_bit_sliced_code.cpp says.
/// The histogram needs two symbols that occur. Found by dynamic programming over the symbols in
/// order of frequency: a stage takes the most frequent ones that are left. `quick` tries fewer
/// chains where there are many symbols: a hundredth of the time, and some thousandths more bits.
[[nodiscard]] BitSlicedCode build_bit_sliced_code(const Histogram& histogram, bool quick = false);

/// Gives the words of a stage, shortest first, to the symbols that end in it; `later` are those of
/// the later stages.
void assign_words(Stage& stage, std::span<const std::uint8_t> ending,
                  std::span<const std::uint8_t> later, std::uint8_t last_symbol) noexcept;

/// Bits that the words of all symbols take together, without padding.
[[nodiscard]] std::uint64_t coded_bits(const BitSlicedCode& code,
                                       const Histogram& histogram) noexcept;

/// The words of one length of a stage: the stage, its suffix bits, and how many the shape has.
struct WordClass {
    std::size_t stage;
    int extra;
    unsigned capacity;
};

/// Every class that has words, by stage and length. A symbol's class is all that a header tells of
/// it: the words of a class are given out in the order of the symbols.
[[nodiscard]] std::vector<WordClass> classes_of(const BitSlicedCode& code);

/// Bits that name a class; 0 is for symbols without a word.
[[nodiscard]] constexpr int class_width(std::size_t classes) noexcept {
    return static_cast<int>(std::bit_width(classes));
}

void append_bit_sliced_code(const BitSlicedCode& code, std::vector<std::uint8_t>& out);

/// Reads what `append_bit_sliced_code` wrote; `count` is the bytes read when ok, or the faulty
/// byte.
[[nodiscard]] Result read_bit_sliced_code(std::span<const std::uint8_t> bytes, BitSlicedCode& code);

}  // namespace tersor::huffman
