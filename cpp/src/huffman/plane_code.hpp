// A prefix code whose words can be stored bit by bit in planes: a chain of stages. docs/kernels.md
// has a picture.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "tersor/huffman.hpp"

namespace tersor::huffman {

/// Bits of one word in one stage: planes and levels together.
inline constexpr int max_stage_bits = 8;
inline constexpr int max_levels = 3;
inline constexpr std::size_t max_stages = 16;

/// One stage of a code. Its roots are the numbers of `planes` bits. The first `short_roots` of them
/// are words. Those after are continued by `levels` more bits. The last root, all ones, stands for
/// every symbol of the later stages where there is a later one.
struct Stage {
    int planes = 1;                  // 1 to 8
    unsigned short_roots = 0;        // 0 to 2^planes
    int levels = 0;                  // 0 to 3; 0 if and only if no root is continued
    bool tail = false;               // whether a later stage follows
    std::uint8_t last_symbol = 255;  // of the code
    /// Index = root * 2^levels + level bits; the symbol with that word.
    std::array<std::uint8_t, std::size_t{1} << max_stage_bits> symbols{};
    /// The inverse; symbols of later stages have the index of the tail's root.
    std::array<std::uint8_t, alphabet_size> indices{};

    [[nodiscard]] int bits() const noexcept { return planes + levels; }
    [[nodiscard]] unsigned roots() const noexcept { return 1U << planes; }
    [[nodiscard]] unsigned long_roots() const noexcept {
        return roots() - short_roots - (tail ? 1U : 0U);
    }
    /// Words that the shape has room for; the code uses all of them but in its last stage.
    [[nodiscard]] unsigned capacity() const noexcept {
        return short_roots + (long_roots() << levels);
    }
    [[nodiscard]] std::uint8_t tail_index() const noexcept {
        return static_cast<std::uint8_t>((roots() - 1) << levels);
    }
};

/// The stages, and the largest symbol that has a word.
struct PlaneCode {
    std::vector<Stage> stages;
    std::uint8_t last_symbol = 0;
};

/// The code that costs least, where bits are priced 1 and cycles as plane_code.cpp says. The
/// histogram needs two symbols that occur. Found by dynamic programming over the symbols in order
/// of frequency: a stage takes the most frequent ones that are left.
[[nodiscard]] PlaneCode build_plane_code(const Histogram& histogram);

/// Bits that the words of all symbols take together, without padding.
[[nodiscard]] std::uint64_t coded_bits(const PlaneCode& code, const Histogram& histogram) noexcept;

void append_plane_code(const PlaneCode& code, std::vector<std::uint8_t>& out);

/// Reads what `append_plane_code` wrote; `count` is the bytes read when ok, or the faulty byte.
[[nodiscard]] Result read_plane_code(std::span<const std::uint8_t> bytes, PlaneCode& code);

}  // namespace tersor::huffman
