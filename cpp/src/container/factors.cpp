#include "container/factors.hpp"

#include <algorithm>
#include <bit>
#include <cmath>

#include "container/half.hpp"
#include "support/little_endian.hpp"

namespace tersor::layer_parts {
namespace {

/// Octaves of the grid: the normal numbers of fp32.
constexpr std::int64_t lowest_octave = -126;
constexpr std::int64_t highest_octave = 127;

int grid_bits(const FactorList& list) noexcept { return list.kind - factor_kind::grid; }

std::size_t stored_width(const FactorList& list) noexcept {
    return list.kind == factor_kind::fp32 ? sizeof(std::uint32_t) : sizeof(std::uint16_t);
}

/// 0, -1, 1, -2, ... for 0, 1, 2, 3, ...
std::int64_t from_zigzag(std::uint64_t value) noexcept {
    const auto half = static_cast<std::int64_t>(value >> 1);
    return (value & 1) != 0 ? -half - 1 : half;
}

/// Whether the stream of places is sound, as far as its head tells.
Result inspect_places(const FactorList& list) {
    huffman::StreamInfo info;
    Result result = huffman::inspect(list.bytes, info);
    result.count += list.offset;
    if (result.ok() && info.symbols != list.count) return {Status::size_mismatch, list.offset};
    return result;
}

Result decode_places(const FactorList& list, std::vector<float>& factors) {
    std::vector<std::uint8_t> places(static_cast<std::size_t>(list.count));
    Result result = huffman::decode(list.bytes, places);
    result.count += list.offset;
    if (!result.ok()) return result;
    for (const std::uint8_t place : places) {
        const float value = grid_value(list.first + place, grid_bits(list));
        if (value == 0.0F) return {Status::not_finite, list.offset};
        factors.push_back(value);
    }
    return result;
}

Result read_factors(const FactorList& list, std::vector<float>& factors) {
    const std::size_t width = stored_width(list);
    for (std::size_t at = 0; at < list.bytes.size(); at += width) {
        const std::uint8_t* const from = list.bytes.data() + at;
        const float value =
            list.kind == factor_kind::fp32
                ? std::bit_cast<float>(support::load_little_endian<std::uint32_t>(from))
                : container::float_from_half(support::load_little_endian<std::uint16_t>(from));
        if (!std::isfinite(value)) return {Status::not_finite, list.offset + at};
        factors.push_back(value);
    }
    return {Status::ok, list.bytes.size()};
}

}  // namespace

float grid_value(std::int64_t place, int bits) noexcept {
    const std::int64_t octave = place >> bits;  // rounds down
    if (octave < lowest_octave || octave > highest_octave) return 0.0F;
    // Square roots and products are the same wherever arithmetic is IEEE 754's; std::exp2 is not.
    double root = 2.0;
    double value = 1.0;
    for (int bit = bits - 1; bit >= 0; --bit) {
        root = std::sqrt(root);
        if ((place >> bit & 1) != 0) value *= root;
    }
    return static_cast<float>(std::ldexp(value, static_cast<int>(octave)));
}

void parse_factors(support::Cursor& cursor, std::uint64_t wanted, std::uint64_t other,
                   FactorList& list) {
    list.count = cursor.varint();
    if (!cursor.ok() || list.count == 0) return;
    if (list.count != wanted && list.count != other) return cursor.fail(Status::size_mismatch);
    list.kind = cursor.byte();
    if (list.kind > factor_kind::grid + most_grid_bits) return cursor.fail(Status::bad_header);
    if (list.kind < factor_kind::grid) {
        list.offset = cursor.position();
        list.bytes = cursor.take(list.count * stored_width(list));
        return;
    }
    list.first = from_zigzag(cursor.varint());
    // No number of fp32 lies beyond, so that sums of places cannot overflow.
    if (list.first != std::clamp<std::int64_t>(list.first, -(1 << 20), 1 << 20)) {
        return cursor.fail(Status::bad_header);
    }
    const std::uint64_t size = cursor.varint();
    list.offset = cursor.position();
    list.bytes = cursor.take(size);
    if (!cursor.ok()) return;
    if (const Result result = inspect_places(list); !result.ok()) cursor.fail(result.status);
}

std::uint64_t decoded_bytes(const FactorList& list, std::uint64_t count) noexcept {
    if (list.count == 0) return 0;
    return list.count * (sizeof(std::uint8_t) + sizeof(float)) + count * sizeof(float);
}

Result decode_factors(const FactorList& list, std::uint64_t count, std::vector<float>& factors) {
    factors.clear();
    if (list.count == 0) return {Status::ok, 0};
    std::vector<float> stored;
    stored.reserve(static_cast<std::size_t>(list.count));
    const Result result =
        list.kind < factor_kind::grid ? read_factors(list, stored) : decode_places(list, stored);
    if (!result.ok() || list.count == count) {
        factors = std::move(stored);
        return result;
    }
    factors.reserve(static_cast<std::size_t>(count));
    for (const float value : stored) {
        factors.insert(factors.end(), static_cast<std::size_t>(count / list.count), value);
    }
    return result;
}

}  // namespace tersor::layer_parts
