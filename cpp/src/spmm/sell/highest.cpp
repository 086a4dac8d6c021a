#include "spmm/sell/highest.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

namespace tersor::spmm {
namespace {

constexpr double eps = 0x1p-23;

/// Rows that are mended one by one, as a part of all: each costs as much as ten.
constexpr std::size_t mended_part = 16;

/// How far the limbs are off: a part of sum |w||x|, in eps, and for each code one of max|x|.
struct Errors {
    double relative = 0.0;
    std::array<double, 256> absolute{};
};

Errors errors_of(const Limbs& limbs, std::span<const float> codebook) {
    constexpr double range = 2.0;  // x spans at most 2 max|x|
    const double x_unit = range / full_scale(finest_arithmetic.x_limbs, limbs.bits);
    const double x_error = 0.5 * x_unit + range * 0x1p-44;  // rounded once, and in double
    const std::array<double, 256> dropped = dropped_products(limbs, finest_arithmetic);
    Errors errors;
    for (std::size_t code = 1; code < codebook.size(); ++code) {
        const double w = std::abs(double{codebook[code]});
        const double value = limbs.value(code);
        if (w > 0.0) {
            const double wrong = std::abs(value - double{codebook[code]});
            errors.relative = std::max(errors.relative, wrong / (w * eps));
        }
        errors.absolute[code] = std::abs(value) * x_error + dropped[code] * x_unit * limbs.unit;
    }
    return errors;
}

}  // namespace

HighestRows make_highest_rows(const Sell& layout, std::span<const float> codebook) {
    const Limbs& limbs = layout.limbs[max_limbs - 1];
    const Errors errors = errors_of(limbs, without_outliers(layout.integers, codebook));
    struct Row {
        double sum = 0.0;
        double error = 0.0;
        double nonzeros = 0.0;
    };
    std::vector<Row> rows(layout.row_order.size());
    for_each_entry(layout, [&](std::uint32_t row, std::size_t, std::uint8_t code) {
        rows[row].sum += limbs.value(code);
        rows[row].error += errors.absolute[code];
        rows[row].nonzeros += 1.0;
    });
    const std::vector<float>& sums = layout.sums;
    HighestRows highest{std::vector<float>(sums.size()), std::vector<float>(sums.size())};
    for (std::size_t i = 0; i < rows.size(); ++i) {
        const Row& row = rows[layout.row_order[i]];
        highest.sum_rests[i] = static_cast<float>(row.sum - double{sums[i]});
        // The result is rounded to fp32, and |y| is not quite the true one's.
        const double room = highest_limit(row.nonzeros) - errors.relative - 1.0;
        if (row.nonzeros == 0.0) continue;
        highest.floors[i] = room > 0.0
                                ? std::max(std::numeric_limits<float>::denorm_min(),
                                           static_cast<float>(1.000001 * row.error / (room * eps)))
                                : std::numeric_limits<float>::infinity();
    }
    return highest;
}

bool mend_rows(const Sell& layout, const HighestRows& highest, std::span<const float> codebook,
               const float* x, double largest, float* y) {
    const std::size_t rows = layout.row_order.size();
    std::vector<std::uint32_t> places;
    for (std::size_t i = 0; i < rows; ++i) {
        if (!(double{std::abs(y[layout.row_order[i]])} >= double{highest.floors[i]} * largest)) {
            places.push_back(static_cast<std::uint32_t>(i));
        }
    }
    if (places.size() > rows / mended_part + 4) return false;
    for (const std::uint32_t place : places) {
        double sum = 0.0;
        for_each_entry_of(layout, place, [&](std::size_t column, std::uint8_t code) {
            sum += double{codebook[code]} * double{x[column]};
        });
        y[layout.row_order[place]] = static_cast<float>(sum);
    }
    return true;
}

}  // namespace tersor::spmm
