#include "huffman/canonical.hpp"

#include <algorithm>

namespace tersor::huffman {
namespace {

std::uint16_t reversed(std::uint32_t word, int length) noexcept {
    std::uint32_t result = 0;
    for (int i = 0; i < length; ++i) result |= ((word >> i) & 1U) << (length - 1 - i);
    return static_cast<std::uint16_t>(result);
}

}  // namespace

bool is_complete(const CodeLengths& lengths) noexcept {
    std::uint32_t sum = 0;
    for (const std::uint8_t length : lengths) {
        if (length > max_stream_length) return false;
        if (length != 0) sum += std::uint32_t{1} << (max_stream_length - length);
    }
    return sum == std::uint32_t{1} << max_stream_length;
}

CodeWords canonical_words(const CodeLengths& lengths) noexcept {
    CodeWords words{};
    std::uint32_t next = 0;
    for (int length = 1; length <= max_code_length; ++length) {
        next <<= 1;
        for (std::size_t s = 0; s < alphabet_size; ++s) {
            if (lengths[s] == length) words[s] = reversed(next++, length);
        }
    }
    return words;
}

Result read_lengths(std::span<const std::uint8_t> bytes, CodeLengths& lengths) noexcept {
    lengths = {};
    if (bytes.empty()) return {Status::truncated, 0};
    const std::size_t last = bytes[0];
    std::size_t nibbles = 0;
    const auto position = [&] { return 1 + nibbles / 2; };
    const auto next = [&](std::uint8_t& nibble) {
        if (position() >= bytes.size()) return false;
        nibble = static_cast<std::uint8_t>((bytes[position()] >> (nibbles % 2 * 4)) & 15);
        ++nibbles;
        return true;
    };
    for (std::size_t s = 0; s <= last; ++s) {
        std::uint8_t length = 0;
        if (!next(length)) return {Status::truncated, bytes.size()};
        if (length != 0) {
            lengths[s] = length;
            continue;
        }
        std::uint8_t further = 0;
        if (!next(further)) return {Status::truncated, bytes.size()};
        s += further;
        if (s >= last) return {Status::bad_code_lengths, position() - 1};  // the last one occurs
    }
    if (nibbles % 2 != 0 && (bytes[position()] >> 4) != 0) {
        return {Status::bad_code_lengths, position()};
    }
    const std::size_t size = 1 + (nibbles + 1) / 2;
    if (!is_complete(lengths)) return {Status::bad_code_lengths, size - 1};
    return {Status::ok, size};
}

void build_table(const CodeLengths& lengths, DecodeTable& table) noexcept {
    table.bits = *std::max_element(lengths.begin(), lengths.end());
    const CodeWords words = canonical_words(lengths);
    for (std::size_t s = 0; s < alphabet_size; ++s) {
        if (lengths[s] == 0) continue;
        const Prefix prefix{static_cast<std::uint8_t>(s), lengths[s]};
        const std::size_t step = std::size_t{1} << lengths[s];
        for (std::size_t w = words[s]; w < std::size_t{1} << table.bits; w += step) {
            table.prefixes[w] = prefix;
        }
    }
}

}  // namespace tersor::huffman
