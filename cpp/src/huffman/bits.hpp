// Bit strings, the first bit lowest: written a few bits at a time, or all of one width.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "tersor/status.hpp"

namespace tersor::huffman {

/// Appends bits to bytes; `flush` pads with zero bits to a full byte.
class BitWriter {
public:
    explicit BitWriter(std::vector<std::uint8_t>& out) noexcept : out_(out) {}

    void put(std::uint64_t bits, int length) {
        pending_ |= bits << filled_;
        for (filled_ += length; filled_ >= 8; filled_ -= 8, pending_ >>= 8) {
            out_.push_back(static_cast<std::uint8_t>(pending_));
        }
    }
    void flush() {
        if (filled_ > 0) out_.push_back(static_cast<std::uint8_t>(pending_));
        pending_ = 0;
        filled_ = 0;
    }

private:
    std::vector<std::uint8_t>& out_;
    std::uint64_t pending_ = 0;
    int filled_ = 0;
};

/// Bytes that fields of one width take together.
[[nodiscard]] constexpr std::uint64_t fields_size(std::uint64_t count, int width) noexcept {
    return (count * static_cast<unsigned>(width) + 7) / 8;
}

/// Appends fields of 1 to 8 bits, padded with zero bits to a full byte.
void append_fields(std::span<const std::uint8_t> fields, int width, std::vector<std::uint8_t>& out);

/// Reads what `append_fields` wrote from exactly these bytes; `count` is the byte offset of a
/// fault.
[[nodiscard]] Result read_fields(std::span<const std::uint8_t> bytes, int width,
                                 std::span<std::uint8_t> fields) noexcept;

}  // namespace tersor::huffman
