// Canonical words one after the other, decoded by table look-up: a refill reads eight bytes at once
// and serves four symbols (4 * 12 bits <= 56). Invariant of the fast loop: at least eight bytes are
// left, so no load passes the end; the rest goes through the safe loop, which checks each symbol.
#include "huffman/words.hpp"

#include "huffman/bits.hpp"
#include "support/little_endian.hpp"

namespace tersor::huffman {
namespace {

constexpr std::size_t symbols_per_refill = 4;
static_assert(symbols_per_refill * max_stream_length <= 56);

/// Where a stream stands: bits already consumed, symbols already written.
struct Progress {
    std::size_t bit = 0;
    std::size_t symbol = 0;
};

/// Decodes `symbols_per_refill` symbols; eight bytes from the current one must be readable.
inline void decode_refill(std::span<const std::uint8_t> bits, const DecodeTable& table,
                          std::span<std::uint8_t> symbols, Progress& at) noexcept {
    std::uint64_t window =
        support::load_little_endian<std::uint64_t>(bits.data() + at.bit / 8) >> (at.bit % 8);
    const std::uint64_t mask = (std::uint64_t{1} << table.bits) - 1;
    for (std::size_t i = 0; i < symbols_per_refill; ++i) {
        const Prefix prefix = table.prefixes[window & mask];
        symbols[at.symbol + i] = prefix.symbol;
        window >>= prefix.length;
        at.bit += prefix.length;
    }
    at.symbol += symbols_per_refill;
}

bool can_refill(std::span<const std::uint8_t> bits, std::span<const std::uint8_t> symbols,
                const Progress& at) noexcept {
    return at.bit / 8 + 8 <= bits.size() && at.symbol + symbols_per_refill <= symbols.size();
}

/// Everything from `at` on, bounds checked, then the padding.
Result finish(std::span<const std::uint8_t> bits, const DecodeTable& table,
              std::span<std::uint8_t> symbols, Progress at) noexcept {
    const std::size_t total = bits.size() * 8;
    while (can_refill(bits, symbols, at)) decode_refill(bits, table, symbols, at);
    for (; at.symbol < symbols.size(); ++at.symbol) {
        std::uint32_t window = 0;
        for (std::size_t i = 0; i < 3 && at.bit / 8 + i < bits.size(); ++i) {
            window |= std::uint32_t{bits[at.bit / 8 + i]} << (8 * i);
        }
        window >>= at.bit % 8;
        const Prefix prefix = table.prefixes[window & ((1U << table.bits) - 1)];
        if (prefix.length > total - at.bit) return {Status::truncated, bits.size()};
        symbols[at.symbol] = prefix.symbol;
        at.bit += prefix.length;
    }
    const std::size_t used = (at.bit + 7) / 8;
    if (used < bits.size()) return {Status::trailing_bytes, used};
    if (at.bit % 8 != 0 && bits[used - 1] >> (at.bit % 8) != 0) {
        return {Status::bad_code_word, used - 1};
    }
    return {Status::ok, used};
}

}  // namespace

Result decode_words(std::span<const std::uint8_t> bits, const DecodeTable& table,
                    std::span<std::uint8_t> symbols) noexcept {
    return finish(bits, table, symbols, {});
}

}  // namespace tersor::huffman
