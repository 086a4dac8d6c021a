// Writing factors: on the coarsest grid that has them all, else as fp16 or fp32.
#include <algorithm>
#include <bit>
#include <cmath>
#include <optional>

#include "container/factors.hpp"
#include "container/half.hpp"
#include "container/layer_parts.hpp"

namespace tersor::layer_parts {
namespace {

using support::append_varint;

/// The places of factors on a grid, where all of them have one.
std::optional<std::vector<std::int64_t>> places_on_grid(std::span<const float> factors, int bits) {
    std::vector<std::int64_t> places;
    places.reserve(factors.size());
    for (const float factor : factors) {
        if (!std::isnormal(factor) || factor < 0.0F) return std::nullopt;
        const std::int64_t place =
            std::llround(std::log2(double{factor}) * static_cast<double>(1 << bits));
        if (grid_value(place, bits) != factor) return std::nullopt;
        places.push_back(place);
    }
    const auto [least, most] = std::minmax_element(places.begin(), places.end());
    if (*most - *least >= static_cast<std::int64_t>(huffman::alphabet_size)) return std::nullopt;
    return places;
}

void append_places(std::span<const std::int64_t> places, int bits,
                   std::vector<std::uint8_t>& blob) {
    const std::int64_t first = *std::min_element(places.begin(), places.end());
    std::vector<std::uint8_t> above;
    above.reserve(places.size());
    for (const std::int64_t place : places) {
        above.push_back(static_cast<std::uint8_t>(place - first));
    }
    const std::vector<std::uint8_t> stream = huffman::encode(above);
    blob.push_back(static_cast<std::uint8_t>(factor_kind::grid + bits));
    append_varint(first < 0 ? 2 * static_cast<std::uint64_t>(-(first + 1)) + 1
                            : 2 * static_cast<std::uint64_t>(first),
                  blob);
    append_varint(stream.size(), blob);
    blob.insert(blob.end(), stream.begin(), stream.end());
}

bool fits_half(float value) noexcept {
    return container::float_from_half(container::half_from_float(value)) == value;
}

}  // namespace

void append_factors(std::span<const float> factors, std::vector<std::uint8_t>& blob) {
    append_varint(factors.size(), blob);
    if (factors.empty()) return;
    check(std::ranges::all_of(factors, [](float value) { return std::isfinite(value); }),
          "a factor is NaN or infinite");
    for (int bits = 0; bits <= most_grid_bits; ++bits) {
        if (const auto places = places_on_grid(factors, bits)) {
            append_places(*places, bits, blob);
            return;
        }
    }
    const bool half = std::ranges::all_of(factors, fits_half);
    blob.push_back(half ? factor_kind::fp16 : factor_kind::fp32);
    for (const float value : factors) {
        if (half) {
            support::append_little_endian(container::half_from_float(value), blob);
        } else {
            support::append_little_endian(std::bit_cast<std::uint32_t>(value), blob);
        }
    }
}

}  // namespace tersor::layer_parts
