// Layers of every kind to be written as blobs.
#pragma once

#include <cmath>
#include <cstdint>
#include <random>
#include <utility>
#include <vector>

#include "hash/xxh3.hpp"
#include "support/little_endian.hpp"
#include "tersor/layer.hpp"

namespace tersor::test {

using Bytes = std::vector<std::uint8_t>;

/// Which factors a layer has.
enum class With { none, rows, channels, both };

/// Rows on a grid or not; columns that are equal for the taps of an input channel or not.
inline void set_factors(With with, Layer& layer) {
    for (std::size_t r = 0; with == With::rows && r < layer.csr.rows; ++r) {
        layer.row_factors.push_back(0.3F * static_cast<float>(r) - 1);
    }
    for (std::size_t r = 0; with == With::both && r < layer.csr.rows; ++r) {
        layer.row_factors.push_back(std::ldexp(1.0F, static_cast<int>(r % 5) - 7));
    }
    for (std::size_t k = 0; with == With::channels && k < layer.csr.cols; ++k) {
        layer.column_factors.push_back(k < 20 ? 0.25F : 2.0F);
    }
    for (std::size_t k = 0; with == With::both && k < layer.csr.cols; ++k) {
        layer.column_factors.push_back(0.125F * static_cast<float>(k + 1));
    }
}

inline Layer make_layer(ValueKind kind, bool flat, With with = With::none) {
    std::mt19937 generator(3);
    std::vector<std::uint8_t> codes(6 * 40);
    const unsigned clusters = is_shared(kind) ? 5 : 1;
    for (auto& code : codes) {
        code = generator() % 4 == 0 ? static_cast<std::uint8_t>(1 + generator() % clusters)
                                    : std::uint8_t{0};
    }
    Layer layer{{6, 2, 4, 5}, kind, csr::encode(codes, 6, 40, 3, flat), {}};
    const std::size_t count = is_shared(kind) ? clusters : csr::validate(layer.csr).count;
    for (std::size_t i = 0; i < count; ++i)
        layer.values.push_back(0.25F * static_cast<float>(i) - 1);
    set_factors(with, layer);
    return layer;
}

/// A body of a blob with a hash that is right: of version 1.3 half of it.
inline Bytes hashed(Bytes body) {
    const std::uint64_t hash = hash::xxh3_64(body);
    if (body.size() > 3 && body[3] == 0x31) {
        support::append_little_endian(static_cast<std::uint32_t>(hash), body);
    } else {
        support::append_little_endian(hash, body);
    }
    return body;
}

}  // namespace tersor::test
