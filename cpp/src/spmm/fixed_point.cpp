#include "spmm/fixed_point.hpp"

#include <algorithm>
#include <cmath>
#include <vector>

namespace tersor::spmm {
namespace {

constexpr double weight_of_level(int level) noexcept {
    return static_cast<double>(std::uint64_t{1} << (8 * level));
}

}  // namespace

double Digits::value(std::size_t code) const noexcept {
    double sum = 0.0;
    for (int p = 0; p < count; ++p) {
        sum += weight_of_level(p) * table[static_cast<std::size_t>(p)][code];
    }
    return unit * sum;
}

Digits split_values(std::span<const double> values, int count) {
    Digits digits;
    digits.count = count;
    double largest = 0.0;
    for (const double value : values) largest = std::max(largest, std::abs(value));
    if (largest == 0.0) return digits;
    digits.unit = largest / (127.0 * weight_of_level(count - 1));
    for (std::size_t code = 0; code < 256; ++code) {
        const std::size_t source = values.size() <= 16 ? code % 16 : code;
        if (source >= values.size()) continue;
        std::int64_t rest = std::llrint(values[source] / digits.unit);
        for (int p = 0; p < count; ++p) {
            const auto digit = static_cast<std::int8_t>(rest);
            digits.table[static_cast<std::size_t>(p)][code] = digit;
            rest = (rest - digit) / 256;
        }
    }
    return digits;
}

Digits split_codebook(std::span<const float> codebook, int count) {
    return split_values(std::vector<double>(codebook.begin(), codebook.end()), count);
}

std::array<double, 256> dropped_products(const Digits& digits, Arithmetic arithmetic) {
    std::array<double, 256> dropped{};
    for (std::size_t code = 0; code < dropped.size(); ++code) {
        for (int p = 0; p < arithmetic.x_digits; ++p) {
            for (int q = 0; p + q < arithmetic.lowest_level() && q < digits.count; ++q) {
                dropped[code] += 255.0 * weight_of_level(p + q) *
                                 std::abs(int{digits.table[static_cast<std::size_t>(q)][code]});
            }
        }
    }
    return dropped;
}

std::array<double, 256> product_errors(std::span<const float> codebook, const Digits& digits,
                                       Arithmetic arithmetic) {
    // x spans at most 2 max|x|. It is rounded to an integer, and three times in fp32 on the way
    // there; the sums of weights are fp32, and so is the result.
    constexpr double range = 2.0;
    constexpr double half_ulp = 0x1p-24;
    const double x_unit = range / full_scale(arithmetic.x_digits);
    const double x_error = 0.5 * x_unit + 3.0 * half_ulp * range + 3.0 * half_ulp;
    const std::array<double, 256> dropped = dropped_products(digits, arithmetic);
    std::array<double, 256> errors{};
    for (std::size_t code = 0; code < codebook.size(); ++code) {
        const double value = digits.value(code);
        errors[code] = std::abs(double{codebook[code]} - value) + std::abs(value) * x_error +
                       dropped[code] * x_unit * digits.unit;
    }
    return errors;
}

}  // namespace tersor::spmm
