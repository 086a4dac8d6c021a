// Unsigned LEB128 integers, and a cursor that never reads past its span.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "tersor/status.hpp"

namespace tersor::support {

/// The longest: 64 bits by sevens.
inline constexpr std::size_t max_varint_bytes = 10;

inline void append_varint(std::uint64_t value, std::vector<std::uint8_t>& out) {
    for (; value >= 0x80; value >>= 7) out.push_back(static_cast<std::uint8_t>(value | 0x80));
    out.push_back(static_cast<std::uint8_t>(value));
}

/// Reads bytes in order and remembers the first fault; after a fault every read gives zeros.
class Cursor {
public:
    explicit Cursor(std::span<const std::uint8_t> bytes) noexcept : bytes_(bytes) {}

    [[nodiscard]] bool ok() const noexcept { return status_ == Status::ok; }
    [[nodiscard]] std::size_t position() const noexcept { return position_; }
    [[nodiscard]] std::size_t remaining() const noexcept { return bytes_.size() - position_; }
    /// The fault and its position, or ok and the number of bytes read.
    [[nodiscard]] Result result() const noexcept { return {status_, position_}; }
    void fail(Status status) noexcept {
        if (ok()) status_ = status;
    }

    [[nodiscard]] std::uint8_t byte() noexcept {
        const std::span<const std::uint8_t> one = take(1);
        return one.empty() ? std::uint8_t{0} : one[0];
    }

    [[nodiscard]] std::span<const std::uint8_t> take(std::uint64_t size) noexcept {
        if (!ok()) return {};
        if (size > remaining()) {
            fail(Status::truncated);
            return {};
        }
        const auto taken = bytes_.subspan(position_, static_cast<std::size_t>(size));
        position_ += taken.size();
        return taken;
    }

    [[nodiscard]] std::span<const std::uint8_t> remaining_bytes() const noexcept {
        return bytes_.subspan(position_);
    }

    /// Only the shortest form of a number is allowed, so that one value has one encoding.
    [[nodiscard]] std::uint64_t varint() noexcept {
        std::uint64_t value = 0;
        for (int shift = 0; ok(); shift += 7) {
            const std::uint8_t next = byte();
            const bool last = next < 0x80;
            if ((shift == 63 && next > 1) || (last && next == 0 && shift > 0)) {
                fail(Status::bad_header);
            }
            value |= static_cast<std::uint64_t>(next & 0x7f) << shift;
            if (last) break;
        }
        return ok() ? value : 0;
    }

private:
    std::span<const std::uint8_t> bytes_;
    std::size_t position_ = 0;
    Status status_ = Status::ok;
};

}  // namespace tersor::support
