#include "spmm/fixed_point.hpp"

#include <algorithm>
#include <cmath>
#include <vector>

namespace tersor::spmm {
namespace {

constexpr double weight_of_place(int place, int bits) noexcept {
    return static_cast<double>(std::uint64_t{1} << (bits * place));
}

}  // namespace

double Limbs::value(std::size_t code) const noexcept {
    double sum = 0.0;
    for (int p = 0; p < count; ++p) {
        sum += weight_of_place(p, bits) * table[static_cast<std::size_t>(p)][code];
    }
    return unit * sum;
}

Limbs split_values(std::span<const double> values, int count, int bits) {
    Limbs limbs;
    limbs.count = count;
    limbs.bits = bits;
    double largest = 0.0;
    for (const double value : values) largest = std::max(largest, std::abs(value));
    if (largest == 0.0) return limbs;
    limbs.unit = largest / (127.0 * weight_of_place(count - 1, bits));
    for (std::size_t code = 0; code < 256; ++code) {
        const std::size_t source = values.size() <= 16 ? code % 16 : code;
        if (source >= values.size()) continue;
        std::int64_t remainder = std::llrint(values[source] / limbs.unit);
        // All limbs but the first are between -base / 2 and base / 2.
        const std::int64_t half = std::int64_t{1} << (bits - 1);
        for (int p = 0; p + 1 < count; ++p) {
            const std::int64_t limb = ((remainder + half) & (2 * half - 1)) - half;
            limbs.table[static_cast<std::size_t>(p)][code] = static_cast<std::int8_t>(limb);
            remainder = (remainder - limb) / (2 * half);
        }
        limbs.table[static_cast<std::size_t>(count - 1)][code] =
            static_cast<std::int8_t>(remainder);
    }
    return limbs;
}

Limbs split_codebook(std::span<const float> codebook, int count, int bits) {
    return split_values(std::vector<double>(codebook.begin(), codebook.end()), count, bits);
}

std::array<double, 256> dropped_products(const Limbs& limbs, Arithmetic arithmetic) {
    const double largest_limb = weight_of_place(1, limbs.bits) - 1.0;
    std::array<double, 256> dropped{};
    for (std::size_t code = 0; code < dropped.size(); ++code) {
        for (int p = 0; p < arithmetic.x_limbs; ++p) {
            for (int q = 0; p + q < arithmetic.lowest && q < limbs.count; ++q) {
                dropped[code] += largest_limb * weight_of_place(p + q, limbs.bits) *
                                 std::abs(int{limbs.table[static_cast<std::size_t>(q)][code]});
            }
        }
    }
    return dropped;
}

std::array<double, 256> product_errors(std::span<const float> codebook, const Limbs& limbs,
                                       Arithmetic arithmetic) {
    constexpr double range = 2.0;  // of x, in max|x|
    const double x_unit = range / full_scale(arithmetic.x_limbs, limbs.bits);
    // x is rounded to an integer, and three times in fp32 on the way there.
    const double x_error = 0.5 * x_unit + range * fixed_roundings + fixed_roundings;
    const std::array<double, 256> dropped = dropped_products(limbs, arithmetic);
    std::array<double, 256> errors{};
    for (std::size_t code = 0; code < codebook.size(); ++code) {
        const double weight{codebook[code]};
        errors[code] = range * std::abs(weight - limbs.value(code)) + std::abs(weight) * x_error +
                       dropped[code] * x_unit * limbs.unit;
    }
    return errors;
}

}  // namespace tersor::spmm
