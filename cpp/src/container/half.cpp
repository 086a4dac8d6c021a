#include "container/half.hpp"

#include <bit>
#include <cmath>

namespace tersor::container {

std::uint16_t half_from_float(float value) noexcept {
    const auto bits = std::bit_cast<std::uint32_t>(value);
    const auto sign = static_cast<std::uint16_t>((bits >> 16) & 0x8000);
    const std::uint32_t magnitude = bits & 0x7fffffff;
    if (magnitude >= 0x7f800000) {  // infinity, NaN
        return static_cast<std::uint16_t>(sign | 0x7c00 | (magnitude > 0x7f800000 ? 0x200 : 0));
    }
    if (magnitude >= 0x477ff000)
        return static_cast<std::uint16_t>(sign | 0x7c00);  // rounds past max
    if (magnitude < 0x38800000) {  // subnormal: a multiple of 2^-24; the addition rounds to even
        const float shifted = std::bit_cast<float>(magnitude) + 0.5F;
        return static_cast<std::uint16_t>(
            sign | (std::bit_cast<std::uint32_t>(shifted) - std::bit_cast<std::uint32_t>(0.5F)));
    }
    const std::uint32_t odd = (magnitude >> 13) & 1;
    return static_cast<std::uint16_t>(sign | ((magnitude - 0x38000000 + 0xfff + odd) >> 13));
}

float float_from_half(std::uint16_t half) noexcept {
    const std::uint32_t sign = std::uint32_t{half & 0x8000U} << 16;
    const std::uint32_t exponent = (half >> 10) & 0x1f;
    const std::uint32_t fraction = half & 0x3ff;
    if (exponent == 0) {
        const float magnitude = std::ldexp(static_cast<float>(fraction), -24);
        return sign != 0 ? -magnitude : magnitude;
    }
    const std::uint32_t wide = exponent == 0x1f ? 0xff : exponent + 112;
    return std::bit_cast<float>(sign | (wide << 23) | (fraction << 13));
}

}  // namespace tersor::container
