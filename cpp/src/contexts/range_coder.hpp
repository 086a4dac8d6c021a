// A binary range coder: each bit takes as many bits as the probability that its model gave it.
// Carryless, after Martin (1979) and the coder of lpaq: docs/format.md has the arithmetic.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace tersor::contexts {

/// Probabilities are of a one, in 65536ths, and never 0 or 1.
inline constexpr int probability_bits = 16;

/// Where the interval [low, high] is cut: ones take what is not above.
[[nodiscard]] constexpr std::uint32_t cut(std::uint32_t low, std::uint32_t high,
                                          std::uint32_t probability) noexcept {
    const std::uint64_t range = std::uint64_t{high} - low;
    return low + static_cast<std::uint32_t>(range * probability >> probability_bits);
}

class Encoder {
public:
    explicit Encoder(std::vector<std::uint8_t>& out) noexcept : out_(out) {}

    bool code(std::uint32_t probability, bool bit) {
        const std::uint32_t middle = cut(low_, high_, probability);
        (bit ? high_ : low_) = bit ? middle : middle + 1;
        while (((low_ ^ high_) >> 24) == 0) {
            out_.push_back(static_cast<std::uint8_t>(high_ >> 24));
            low_ <<= 8;
            high_ = high_ << 8 | 0xff;
        }
        return bit;
    }

    /// One byte tells the interval, or none: a reader takes zeros for what follows the last one.
    void finish() {
        if (low_ != 0) out_.push_back(static_cast<std::uint8_t>((low_ >> 24) + 1));
    }

    [[nodiscard]] static bool exhausted() noexcept { return false; }

private:
    std::vector<std::uint8_t>& out_;
    std::uint32_t low_ = 0;
    std::uint32_t high_ = 0xffffffff;
};

class Decoder {
public:
    explicit Decoder(std::span<const std::uint8_t> bytes) noexcept : bytes_(bytes) {
        for (std::size_t i = 0; i < window; ++i) code_ = code_ << 8 | next();
    }

    /// What the bit is, is asked here: the argument stands for the encoder's.
    bool code(std::uint32_t probability, bool = false) noexcept {
        const std::uint32_t middle = cut(low_, high_, probability);
        const bool bit = code_ <= middle;
        (bit ? high_ : low_) = bit ? middle : middle + 1;
        while (((low_ ^ high_) >> 24) == 0) {
            low_ <<= 8;
            high_ = high_ << 8 | 0xff;
            code_ = code_ << 8 | next();
        }
        return bit;
    }

    /// Whether more was read than an encoder can have meant: a window past the last byte.
    [[nodiscard]] bool exhausted() const noexcept { return place_ > bytes_.size() + window; }

    /// Whether all bytes were read.
    [[nodiscard]] bool at_end() const noexcept { return place_ >= bytes_.size(); }

private:
    static constexpr std::size_t window = sizeof(std::uint32_t);

    std::uint8_t next() noexcept {
        const std::size_t at = place_++;
        return at < bytes_.size() ? bytes_[at] : std::uint8_t{0};
    }

    std::span<const std::uint8_t> bytes_;
    std::size_t place_ = 0;
    std::uint32_t low_ = 0;
    std::uint32_t high_ = 0xffffffff;
    std::uint32_t code_ = 0;
};

}  // namespace tersor::contexts
