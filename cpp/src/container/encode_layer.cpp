#include <algorithm>
#include <cmath>

#include "container/factors.hpp"
#include "container/layer_parts.hpp"
#include "contexts/matrix.hpp"
#include "hash/xxh3.hpp"
#include "support/little_endian.hpp"
#include "support/varint.hpp"
#include "tersor/huffman.hpp"
#include "tersor/layer.hpp"

namespace tersor {
namespace {

using namespace layer_parts;
using hash::xxh3_64;
using support::append_varint;

void append_value(float value, ValueKind kind, std::vector<std::uint8_t>& out) {
    if (value_width(kind) == 4) {
        support::append_little_endian(std::bit_cast<std::uint32_t>(value), out);
    } else {
        support::append_little_endian(container::half_from_float(value), out);
    }
}

void check_factors(const Layer& layer) {
    check(layer.row_factors.empty() || layer.row_factors.size() == layer.csr.rows,
          "row_factors has not one factor for each row");
    check(layer.column_factors.empty() || layer.column_factors.size() == layer.csr.cols,
          "column_factors has not one factor for each column");
}

/// The factors of columns as they are stored: one for each input channel of a filter bank where its
/// taps have the same.
std::vector<float> stored_columns(const Layer& layer) {
    const std::vector<float>& all = layer.column_factors;
    if (all.empty() || layer.shape.size() < 3 || layer.shape[1] == 0) return all;
    const std::size_t taps = all.size() / static_cast<std::size_t>(layer.shape[1]);
    std::vector<float> channels;
    for (std::size_t k = 0; k < all.size(); ++k) {
        if (k % taps == 0) channels.push_back(all[k]);
        if (all[k] != channels.back()) return all;
    }
    return channels;
}

/// The code of each weight.
std::vector<std::uint8_t> dense_codes(const RelativeCsr& csr) {
    std::vector<std::uint8_t> codes(std::size_t{csr.rows} * csr.cols);
    static_cast<void>(csr::decode(csr, codes));  // it was validated
    return codes;
}

/// The version and the fields up to the counts.
std::vector<std::uint8_t> start_of_blob(const Layer& layer, bool factors) {
    const bool contexts = layer.entropy == Entropy::smallest;
    std::vector<std::uint8_t> blob(magic.begin(), magic.end());
    blob.push_back(contexts ? version_with_contexts
                            : (factors ? version_with_factors : format_version));
    blob.push_back(
        static_cast<std::uint8_t>(static_cast<unsigned>(layer.kind) | (layer.csr.flat ? 4U : 0U) |
                                  (static_cast<unsigned>(layer.csr.index_bits - 1) << 3) |
                                  (contexts && factors ? factors_flag : 0U)));
    append_varint(layer.shape.size(), blob);
    for (const std::uint64_t dimension : layer.shape) append_varint(dimension, blob);
    append_varint(layer.values.size(), blob);
    return blob;
}

void append_values(const Layer& layer, std::vector<std::uint8_t>& blob) {
    for (const float value : layer.values) {
        append_value(value, layer.kind, blob);
        check(std::isfinite(
                  read_value(blob.data() + blob.size() - value_width(layer.kind), layer.kind)),
              "a value is NaN, infinite, or too large for its type");
    }
}

void append_row_lengths(const RelativeCsr& csr, std::vector<std::uint8_t>& blob) {
    std::vector<std::uint8_t> bytes;
    for (const std::uint32_t length : csr.row_lengths) append_varint(length, bytes);
    const std::vector<std::uint8_t> stream = huffman::encode(bytes);
    blob.insert(blob.end(), stream.begin(), stream.end());
}

}  // namespace

std::vector<std::uint8_t> encode_layer(const Layer& layer) {
    MatrixShape matrix;
    check(matrix_shape(layer.shape, matrix), "the shape has 1 to 8 dimensions and fits 32 bits");
    check(layer.csr.rows == matrix.rows && layer.csr.cols == matrix.cols,
          "the matrix and the shape disagree");
    const Result valid = csr::validate(layer.csr);
    check(valid.ok(), "the matrix breaks the rules of RelativeCsr");
    const auto largest = std::max_element(layer.csr.codes.begin(), layer.csr.codes.end());
    const std::size_t largest_code = largest == layer.csr.codes.end() ? 0 : *largest;
    if (is_shared(layer.kind)) {
        check(layer.values.size() <= max_clusters, "a codebook has at most 255 values beside zero");
        check(largest_code <= layer.values.size(), "a code has no value in the codebook");
    } else {
        check(largest_code <= 1, "codes are 0 or 1 where values are not shared");
        check(layer.values.size() == valid.count, "there must be one value for each non-zero");
    }
    check_factors(layer);
    const bool factors = !layer.row_factors.empty() || !layer.column_factors.empty();

    const bool contexts = layer.entropy == Entropy::smallest;
    check(!contexts || is_shared(layer.kind), "contexts are for weights that are shared");
    std::vector<std::uint8_t> blob = start_of_blob(layer, factors);
    std::vector<std::uint8_t> codes, gaps;
    if (contexts) {
        std::vector<std::uint8_t> dense = dense_codes(layer.csr);
        codes = contexts::encode_matrix(contexts::grouping_of(layer.shape), layer.values, dense);
        append_varint(valid.count, blob);
    } else {
        codes = huffman::encode(layer.csr.codes);
        gaps = huffman::encode(layer.csr.gaps);
        append_varint(layer.csr.codes.size() - valid.count, blob);
        append_varint(codes.size(), blob);
        append_varint(gaps.size(), blob);
    }
    if (factors) {
        append_factors(layer.row_factors, blob);
        append_factors(stored_columns(layer), blob);
    }
    append_values(layer, blob);
    blob.insert(blob.end(), codes.begin(), codes.end());
    blob.insert(blob.end(), gaps.begin(), gaps.end());
    if (!layer.csr.flat && !contexts) append_row_lengths(layer.csr, blob);
    const std::uint64_t hash = xxh3_64(blob);
    if (contexts) {
        support::append_little_endian(static_cast<std::uint32_t>(hash), blob);
    } else {
        support::append_little_endian(hash, blob);
    }
    return blob;
}

}  // namespace tersor
