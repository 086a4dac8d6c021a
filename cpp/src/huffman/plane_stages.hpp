// What the vectorised kernels of the bit-sliced code have in common.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "huffman/bit_sliced_code.hpp"

namespace tersor::huffman {

/// Superblocks between the vector store of what goes on and the scalar loads of it, between the
/// scalar stores of suffix bits and the vector load of them, so that the loads find them in the
/// cache; and the memory for as many.
inline constexpr std::size_t lag_of_suffixes = 1;
inline constexpr std::size_t lag = 2;
inline constexpr std::size_t ring_size = 4;
static_assert(lag_of_suffixes + lag < ring_size);

/// Appends bits to a suffix, in a register up to a full byte boundary.
struct BitAppender {
    std::uint8_t* to;
    std::uint64_t pending;
    unsigned filled;  // below 64

    BitAppender() = default;
    BitAppender(std::uint8_t* suffix, std::uint64_t at) noexcept
        : to(suffix + at / 8), filled(static_cast<unsigned>(at % 8)) {
        pending = filled == 0 ? 0U : *to & ((1U << filled) - 1);
    }
    void append(std::uint64_t bits, unsigned count) noexcept {
        pending |= bits << filled;
        std::memcpy(to, &pending, 8);
        const unsigned sum = filled + count;
        if (__builtin_expect(sum > 63, 0)) {
            to += 8;
            pending = (bits >> 1) >> (63 - filled);
            filled = sum - 64;
        } else {
            to += sum / 8;
            pending >>= sum & ~7U;
            filled = sum % 8;
        }
    }
    /// The bits that the suffix has now.
    [[nodiscard]] std::uint64_t finish(const std::uint8_t* suffix) const noexcept {
        std::memcpy(to, &pending, 8);
        return static_cast<std::uint64_t>(to - suffix) * 8 + filled;
    }
};

template <int planes, class Function>
auto with_suffixes(const Stage& stage, const Function& function) noexcept {
    if constexpr (planes + 1 <= max_stage_bits) {
        if (stage.suffixes == 1) return function.template operator()<planes, 1>();
    }
    if constexpr (planes + 2 <= max_stage_bits) {
        if (stage.suffixes == 2) return function.template operator()<planes, 2>();
    }
    if constexpr (planes + 3 <= max_stage_bits) {
        if (stage.suffixes == 3) return function.template operator()<planes, 3>();
    }
    return function.template operator()<planes, 0>();
}

/// Calls `function` with the planes and suffixes of a stage as template arguments.
template <class Function>
auto with_shape(const Stage& stage, const Function& function) noexcept {
    switch (stage.planes) {
        case 1: return with_suffixes<1>(stage, function);
        case 2: return with_suffixes<2>(stage, function);
        case 3: return with_suffixes<3>(stage, function);
        case 4: return with_suffixes<4>(stage, function);
        case 5: return with_suffixes<5>(stage, function);
        case 6: return with_suffixes<6>(stage, function);
        case 7: return with_suffixes<7>(stage, function);
        default: return with_suffixes<8>(stage, function);
    }
}

}  // namespace tersor::huffman
