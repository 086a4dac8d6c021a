#include "spmm/dense_codes/integers.hpp"

#include <algorithm>
#include <cmath>

namespace tersor::spmm {
namespace {

constexpr int largest_multiple = 127;

/// Codes that may be outliers: each of their weights takes as long as some dozen others.
constexpr std::size_t most_outliers(std::size_t values) noexcept {
    return std::min(values / 8, std::size_t{16});
}

/// How far a value may be from a multiple, as a part of it: it was rounded to fp32 once, and the
/// step is found from values that were.
constexpr double tolerance = 0x1p-22;

/// The multiples for about that step; none where the values have another.
std::optional<Integers> integers_for(std::span<const float> values, double step) {
    Integers found;
    std::size_t outliers = 0;
    double products = 0.0;
    double squares = 0.0;
    for (std::size_t code = 1; code < values.size(); ++code) {
        const double multiple = std::round(double{values[code]} / step);
        if (std::abs(multiple) > largest_multiple) {
            if (++outliers > most_outliers(values.size())) return std::nullopt;
            continue;
        }
        // The step is only about right: the exact test follows.
        if (multiple == 0.0 || std::abs(double{values[code]} - multiple * step) > 0x1p-8 * step) {
            return std::nullopt;
        }
        found.of_code[code] = static_cast<std::int8_t>(multiple);
        std::uint8_t& back = found.code_of[static_cast<std::uint8_t>(found.of_code[code])];
        if (back != 0) return std::nullopt;
        back = static_cast<std::uint8_t>(code);
        products += multiple * double{values[code]};
        squares += multiple * multiple;
    }
    found.step = products / squares;
    for (std::size_t code = 1; code < values.size(); ++code) {
        const double value{values[code]};
        if (found.is_outlier(code)) continue;
        if (std::abs(value - found.of_code[code] * found.step) > tolerance * std::abs(value)) {
            return std::nullopt;
        }
    }
    return found;
}

}  // namespace

std::optional<Integers> find_integers(std::span<const float> codebook) {
    if (codebook.size() <= 16) return std::nullopt;  // two of their codes share a byte
    double smallest = std::abs(double{codebook[1]});
    for (const float value : codebook.subspan(1)) {
        smallest = std::min(smallest, std::abs(double{value}));
    }
    if (smallest == 0.0) return std::nullopt;
    // The smallest value is some multiple. The coarsest step that fits is the codebook's.
    for (int multiple = 1; multiple <= largest_multiple; ++multiple) {
        if (auto found = integers_for(codebook, smallest / multiple)) return found;
    }
    return std::nullopt;
}

std::vector<float> without_outliers(const std::optional<Integers>& integers,
                                    std::span<const float> codebook) {
    std::vector<float> values(codebook.begin(), codebook.end());
    for (std::size_t code = 0; code < values.size() && integers.has_value(); ++code) {
        if (integers->is_outlier(code)) values[code] = 0.0F;
    }
    return values;
}

Limbs limbs_of(const Integers& integers, int count, int bits) {
    Limbs limbs;
    limbs.count = count;
    limbs.bits = bits;
    limbs.unit = std::ldexp(integers.step, -bits * (count - 1));
    std::copy(integers.of_code.begin(), integers.of_code.end(),
              limbs.table[static_cast<std::size_t>(count - 1)].begin());
    return limbs;
}

}  // namespace tersor::spmm
