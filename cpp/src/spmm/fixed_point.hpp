// Fixed-point arithmetic of the SELL kernels: which bytes stand for a weight and for an
// activation, and how far a product of the two may be off.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

#include "dispatch/architecture.hpp"
#include "tersor/spmm.hpp"

namespace tersor::spmm {

inline constexpr int max_limbs = 3;    // of a weight
inline constexpr int max_x_limbs = 4;  // of an activation

/// Which limbs a product is made of. An activation is x = low + unit * (sum of limb * base^p)
/// with limbs 0 to base - 1, a weight unit * (sum of limb * base^p) with signed limbs; the base
/// is 256 or, where instructions add products in 16 bits, 128. Products of limbs p and q with p +
/// q below `lowest` are dropped.
struct Arithmetic {
    int x_limbs;
    int w_limbs;
    int lowest;

    friend constexpr bool operator==(Arithmetic, Arithmetic) = default;
};

/// From the cheapest to the most precise. What is dropped is worth less than the last limb of the
/// shorter factor.
inline constexpr std::array arithmetics = {Arithmetic{1, 1, 0}, Arithmetic{1, 2, 0},
                                           Arithmetic{2, 2, 1}, Arithmetic{2, 2, 0},
                                           Arithmetic{3, 3, 2}};

/// The arithmetic of `highest`, whose bound is in sum |w||x|: a finer x, and every product that
/// counts beside it. What it meets is known only with the result: see highest.hpp.
inline constexpr Arithmetic finest_arithmetic{4, 3, 2};

/// Whether any level of this build has limbs of 8 bits, which that arithmetic and panels of limbs
/// need: one that does not carries nothing for them.
inline constexpr bool has_byte_limbs = TERSOR_AVX512 != 0;

/// Calls `function` with an arithmetic, one of `arithmetics` or the finest, as template arguments.
template <class Function>
auto with_arithmetic(Arithmetic arithmetic, const Function& function) noexcept {
    if (arithmetic == Arithmetic{1, 1, 0}) return function.template operator()<1, 1, 0>();
    if (arithmetic == Arithmetic{1, 2, 0}) return function.template operator()<1, 2, 0>();
    if (arithmetic == Arithmetic{2, 2, 1}) return function.template operator()<2, 2, 1>();
    if (arithmetic == Arithmetic{2, 2, 0}) return function.template operator()<2, 2, 0>();
    if (arithmetic == Arithmetic{3, 3, 2}) return function.template operator()<3, 3, 2>();
    return function.template operator()<4, 3, 2>();
}

/// c_p of docs/kernels: |y - y_ref| <= c_p * max|x| * sum |w|.
[[nodiscard]] constexpr double error_limit(Precision precision) noexcept {
    switch (precision) {
        case Precision::low: return 0x1p-6;
        case Precision::medium: return 0x1p-13;
        case Precision::high: return 0x1p-18;
        case Precision::highest: break;
    }
    return 0.0;
}

/// A codebook in signed limbs. Codebooks of up to 16 values repeat every 16 codes, so that a look-
/// up may ignore the upper bits of a code.
struct Limbs {
    int count = 0;
    int bits = 8;  // the logarithm of the base
    double unit = 0.0;
    alignas(64) std::array<std::array<std::int8_t, 256>, max_limbs> table{};

    /// The weight that the limbs of a code stand for.
    [[nodiscard]] double value(std::size_t code) const noexcept;
};

[[nodiscard]] Limbs split_codebook(std::span<const float> codebook, int count, int bits);

/// The same for any values, rounded towards the nearest number that the limbs can express.
[[nodiscard]] Limbs split_values(std::span<const double> values, int count, int bits);

/// For each code, the largest sum of dropped products of limbs, in units of x and w.
[[nodiscard]] std::array<double, 256> dropped_products(const Limbs& limbs, Arithmetic arithmetic);

/// Three roundings in fp32: of an activation on its way to an integer, and again of the sum of the
/// weights, of its product with the origin of x, and of the result.
inline constexpr double fixed_roundings = 3.0 * 0x1p-24;

/// For each code, how far the product of its weight and an activation may be off, per unit of
/// max|x|: rounding of the weight (times what x is above its origin, up to 2 max|x|), rounding of
/// x, dropped products.
[[nodiscard]] std::array<double, 256> product_errors(std::span<const float> codebook,
                                                     const Limbs& limbs, Arithmetic arithmetic);

/// The same part of sum |w| where x has no negative elements: its range is half as wide, and all
/// but the last roundings goes with the range.
[[nodiscard]] constexpr double error_of_positive(double error) noexcept {
    return 0.5 * (error + fixed_roundings);
}

/// The largest integer that an activation is scaled to.
[[nodiscard]] constexpr double full_scale(int x_limbs, int bits) noexcept {
    // fp32 arithmetic scales x: with 24 bits or more its rounding must not carry past the last
    // limb.
    if (x_limbs * bits == 32) return 4294966000.0;
    if (x_limbs * bits == 24) return 16777000.0;
    return static_cast<double>((std::uint64_t{1} << (x_limbs * bits)) - 1);
}

/// The range of a vector and of 0.
struct Range {
    float low;
    float high;
    bool finite;  // no element is NaN or infinite
};

/// How a vector becomes fixed point: limbs of round((x - low) * factor), in units of `unit`.
struct FixedScale {
    float factor;
    double unit;
};
[[nodiscard]] inline FixedScale scale_of(const Range& range, int x_limbs, int bits) noexcept {
    const float width = range.high - range.low;
    const auto factor =
        width > 0.0F ? static_cast<float>(full_scale(x_limbs, bits) / double{width}) : 1.0F;
    return {factor, 1.0 / double{factor}};
}

}  // namespace tersor::spmm
