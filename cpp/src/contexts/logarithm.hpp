// Logarithms to base 2 in 256ths, and back, in integers: the same on every machine.
#pragma once

#include <array>
#include <bit>
#include <cstdint>

namespace tersor::contexts {

/// One in a logarithm.
inline constexpr int octave = 256;

/// ln(x) for x from 1 to 2, by the series of its inverse hyperbolic tangent.
[[nodiscard]] constexpr double natural_logarithm(double x) noexcept {
    const double z = (x - 1) / (x + 1);
    double sum = 0;
    double power = z;
    for (int i = 1; i < 60; i += 2) {
        sum += power / i;
        power *= z * z;
    }
    return 2 * sum;
}

[[nodiscard]] constexpr double exponential(double x) noexcept {
    double sum = 1;
    double term = 1;
    for (int i = 1; i < 40; ++i) {
        term *= x / i;
        sum += term;
    }
    return sum;
}

[[nodiscard]] constexpr std::uint32_t nearest(double x) noexcept {
    return (static_cast<std::uint32_t>(2 * x) + 1) / 2;
}

inline constexpr double ln_2 = natural_logarithm(2);

/// Entry i: 256 log2(1 + (i + 1/2) / 256), to the nearest.
inline constexpr std::array<std::uint16_t, octave> logarithms = [] {
    std::array<std::uint16_t, octave> table{};
    for (int i = 0; i < octave; ++i) {
        const double exact = octave * natural_logarithm(1 + (i + .5) / octave) / ln_2;
        table[static_cast<std::size_t>(i)] = static_cast<std::uint16_t>(nearest(exact));
    }
    return table;
}();

/// Entry i: 65536 * 2^(i / 256), to the nearest.
inline constexpr std::array<std::uint32_t, octave> powers = [] {
    std::array<std::uint32_t, octave> table{};
    for (int i = 0; i < octave; ++i) {
        const double exact = 65536 * exponential(ln_2 * i / octave);
        table[static_cast<std::size_t>(i)] = nearest(exact);
    }
    return table;
}();

/// log2 of a number from 1 on, by its first nine bits.
[[nodiscard]] constexpr int logarithm(std::uint64_t x) noexcept {
    const int whole = std::bit_width(x) - 1;
    const std::uint64_t mantissa = whole >= 8 ? x >> (whole - 8) : x << (8 - whole);
    return whole * octave + logarithms[static_cast<std::size_t>(mantissa & (octave - 1))];
}

/// 65536 / (1 + 2^(-x)), to the nearest: the probability of odds of 2^x, x at most 14 octaves
/// either way.
[[nodiscard]] constexpr std::uint32_t probability_of(int x) noexcept {
    const auto size = static_cast<std::uint32_t>(x < 0 ? -x : x);
    const std::uint64_t odds = std::uint64_t{powers[size % octave]} << (size / octave);
    const std::uint64_t sum = 65536 + odds;
    const auto lesser = static_cast<std::uint32_t>(((std::uint64_t{1} << 32) + sum / 2) / sum);
    return x < 0 ? lesser : 65536 - lesser;
}

}  // namespace tersor::contexts
