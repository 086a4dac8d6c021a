#include "container/parsed_layer.hpp"

#include <algorithm>
#include <cmath>

#include "contexts/matrix.hpp"
#include "hash/xxh3.hpp"
#include "spmm/packing_bytes.hpp"
#include "support/checked_size.hpp"
#include "support/little_endian.hpp"
#include "support/varint.hpp"

namespace tersor::layer_parts {

using hash::xxh3_64;
using support::Cursor;

namespace {

/// Factors of rows and columns, in a blob of the version that has them.
void parse_factor_lists(Cursor& cursor, ParsedLayer& parsed) {
    const std::size_t begin = cursor.position();
    const std::uint64_t rows = parsed.matrix.rows;
    const std::uint64_t cols = parsed.matrix.cols;
    parse_factors(cursor, rows, rows, parsed.row_factors);
    // A filter bank may have one for each input channel instead of one for each tap of these.
    parse_factors(cursor, cols, parsed.shape.size() > 2 ? parsed.shape[1] : cols,
                  parsed.column_factors);
    // One content has one version.
    if (parsed.row_factors.count == 0 && parsed.column_factors.count == 0) {
        cursor.fail(Status::bad_header);
    }
    parsed.factor_bytes = cursor.position() - begin;
}

/// Codes and gaps of more symbols, and what is known of them, no memory holds.
constexpr std::uint64_t max_symbols = support::max_size / 16;

}  // namespace

std::size_t offset_of(std::span<const std::uint8_t> part,
                      std::span<const std::uint8_t> blob) noexcept {
    return static_cast<std::size_t>(part.data() - blob.data());
}

Result check_signature(std::span<const std::uint8_t> blob) noexcept {
    if (blob.size() < magic.size() + 1) return {Status::truncated, blob.size()};
    if (!is_layer(blob)) return {Status::bad_magic, 0};
    const std::uint8_t version = blob[magic.size()];
    if (version != format_version && version != version_with_factors &&
        version != version_with_contexts) {
        return {Status::unsupported_version, magic.size()};
    }
    if (blob.size() < magic.size() + 1 + hash_bytes(version)) {
        return {Status::truncated, blob.size()};
    }
    return {Status::ok, blob.size()};
}

Result check_hash(std::span<const std::uint8_t> blob) noexcept {
    const std::size_t end = blob.size() - hash_bytes(blob[magic.size()]);
    const std::uint64_t found = xxh3_64(blob.first(end));
    const bool same = blob.size() - end == sizeof(std::uint32_t)
                          ? support::load_little_endian<std::uint32_t>(blob.data() + end) ==
                                static_cast<std::uint32_t>(found)
                          : support::load_little_endian<std::uint64_t>(blob.data() + end) == found;
    return same ? Result{Status::ok, blob.size()} : Result{Status::hash_mismatch, end};
}

namespace {

/// Whether the sizes that a blob and its streams announce agree, and are backed by the matrix.
Result check_sizes(std::span<const std::uint8_t> blob, const ParsedLayer& parsed) noexcept {
    // Every entry advances by a weight at least, and a row's length takes at most five bytes.
    const std::uint64_t weights = std::uint64_t{parsed.matrix.rows} * parsed.matrix.cols;
    if (parsed.code_info.symbols > std::min(weights, max_symbols)) {
        return {Status::too_large, offset_of(parsed.codes, blob)};
    }
    if (parsed.row_length_info.symbols >
        std::min(std::uint64_t{parsed.matrix.rows} * 5, max_symbols)) {
        return {Status::too_large, offset_of(parsed.row_lengths, blob)};
    }
    if (parsed.gap_info.symbols != parsed.code_info.symbols) {
        return {Status::size_mismatch, offset_of(parsed.gaps, blob)};
    }
    if (!parsed.flat && parsed.row_length_info.symbols < parsed.matrix.rows) {
        return {Status::size_mismatch, offset_of(parsed.row_lengths, blob)};
    }
    if (parsed.fillers > parsed.code_info.symbols) {
        return {Status::size_mismatch, parsed.fillers_offset};
    }
    const std::uint64_t nonzeros = parsed.code_info.symbols - parsed.fillers;
    if (!is_shared(parsed.kind) && nonzeros != parsed.value_count) {
        return {Status::size_mismatch, offset_of(parsed.values, blob)};
    }
    return {Status::ok, blob.size()};
}

/// What is coded with contexts takes the rest: the number of non-zeros stands for all symbols.
Result parse_contexts(Cursor& cursor, std::span<const std::uint8_t> blob, std::uint64_t nonzeros,
                      ParsedLayer& parsed) {
    parsed.codes = cursor.remaining_bytes();
    parsed.code_info.symbols = parsed.gap_info.symbols = nonzeros;
    parsed.code_info.payload_bits = std::uint64_t{parsed.codes.size()} * 8;
    if (!cursor.ok()) return cursor.result();
    if (!is_shared(parsed.kind)) return {Status::bad_header, magic.size() + 1};
    const std::uint64_t weights = std::uint64_t{parsed.matrix.rows} * parsed.matrix.cols;
    if (nonzeros > std::min(weights, max_symbols)) {
        return {Status::too_large, parsed.fillers_offset};
    }
    if (nonzeros != 0 && parsed.value_count == 0) {
        return {Status::code_past_codebook, parsed.fillers_offset};
    }
    return {Status::ok, blob.size()};
}

}  // namespace

Result parse_layer(std::span<const std::uint8_t> blob, ParsedLayer& parsed) {
    const std::uint8_t version = blob[magic.size()];
    Cursor cursor(blob.first(blob.size() - hash_bytes(version)));
    (void)cursor.take(magic.size() + 1);

    const bool contexts = version == version_with_contexts;
    parsed.entropy = contexts ? Entropy::smallest : Entropy::huffman;
    std::uint8_t flags = cursor.byte();
    const bool factors = contexts ? (flags & factors_flag) != 0 : version == version_with_factors;
    if (contexts) flags &= static_cast<std::uint8_t>(~factors_flag);
    parsed.kind = static_cast<ValueKind>(flags & 3);
    parsed.flat = (flags & 4) != 0;
    parsed.index_bits = ((flags >> 3) & 7) + 1;
    if (cursor.ok() && (flags >> 6 != 0 || parsed.index_bits < csr::min_index_bits)) {
        return {Status::bad_header, magic.size() + 1};
    }
    const std::uint64_t dimensions = cursor.varint();
    if (cursor.ok() && (dimensions == 0 || dimensions > max_dimensions)) {
        cursor.fail(Status::bad_header);
    }
    for (std::uint64_t d = 0; cursor.ok() && d < dimensions; ++d) {
        parsed.shape.push_back(cursor.varint());
    }
    if (cursor.ok() && !matrix_shape(parsed.shape, parsed.matrix)) cursor.fail(Status::too_large);
    parsed.value_count = cursor.varint();
    parsed.fillers_offset = cursor.position();
    const std::uint64_t third = cursor.varint();  // fillers, or non-zeros where none are stored
    const std::uint64_t code_bytes = contexts ? 0 : cursor.varint();
    const std::uint64_t gap_bytes = contexts ? 0 : cursor.varint();
    if (parsed.value_count > blob.size() ||
        (is_shared(parsed.kind) && parsed.value_count > max_clusters)) {
        cursor.fail(Status::too_large);
    }
    if (cursor.ok() && factors) parse_factor_lists(cursor, parsed);
    parsed.values = cursor.take(parsed.value_count * value_width(parsed.kind));
    if (contexts) return parse_contexts(cursor, blob, third, parsed);
    parsed.fillers = third;
    parsed.codes = cursor.take(code_bytes);
    parsed.gaps = cursor.take(gap_bytes);
    parsed.row_lengths = cursor.remaining_bytes();
    if (!cursor.ok()) return cursor.result();
    if (parsed.flat && !parsed.row_lengths.empty()) {
        return {Status::trailing_bytes, cursor.position()};
    }
    const auto inspect = [&](std::span<const std::uint8_t> stream, huffman::StreamInfo& info) {
        Result result = huffman::inspect(stream, info);
        if (!result.ok()) result.count += offset_of(stream, blob);
        return result;
    };
    if (const Result r = inspect(parsed.codes, parsed.code_info); !r.ok()) return r;
    if (const Result r = inspect(parsed.gaps, parsed.gap_info); !r.ok()) return r;
    if (!parsed.flat) {
        if (const Result r = inspect(parsed.row_lengths, parsed.row_length_info); !r.ok()) return r;
    }
    return check_sizes(blob, parsed);
}

namespace {

/// The code of each weight, counts of columns, and fillers, each of which bridges 2^width zeros.
std::uint64_t context_bytes(const ParsedLayer& parsed) noexcept {
    const std::uint64_t weights = std::uint64_t{parsed.matrix.rows} * parsed.matrix.cols;
    const std::uint64_t bytes = 2 * (weights >> parsed.index_bits) +
                                contexts::working_bytes(contexts::grouping_of(parsed.shape));
    return bytes > UINT64_MAX - weights ? UINT64_MAX / 2 : bytes + weights;
}

}  // namespace

std::uint64_t decoded_bytes(const ParsedLayer& parsed) noexcept {
    const std::uint64_t elements = parsed.shape.size() == 1 ? parsed.matrix.rows : 0;
    return (parsed.entropy == Entropy::smallest ? context_bytes(parsed) : 0) +
           elements * (sizeof(std::uint8_t) + sizeof(float)) + 2 * parsed.code_info.symbols +
           parsed.row_length_info.symbols +
           (parsed.flat ? 0 : sizeof(std::uint32_t) * std::uint64_t{parsed.matrix.rows}) +
           sizeof(float) * parsed.value_count +
           decoded_bytes(parsed.row_factors, parsed.matrix.rows) +
           decoded_bytes(parsed.column_factors, parsed.matrix.cols);
}

LayoutHint layout_hint_of(std::span<const std::uint64_t> shape) noexcept {
    return shape.size() == 2 ? LayoutHint::vector : LayoutHint::batch;
}

std::uint64_t packing_bytes(const ParsedLayer& parsed) {
    const std::size_t codebook =
        is_shared(parsed.kind) ? static_cast<std::size_t>(parsed.value_count) + 1 : 0;
    const std::uint64_t factors = (parsed.row_factors.count != 0 ? parsed.matrix.rows : 0) +
                                  (parsed.column_factors.count != 0 ? parsed.matrix.cols : 0);
    const std::uint64_t bytes = spmm::packing_bytes(parsed.matrix.rows, parsed.matrix.cols,
                                                    parsed.code_info.symbols - parsed.fillers,
                                                    codebook, layout_hint_of(parsed.shape));
    // Rounded up to whole lines.
    const std::uint64_t more = factors != 0 ? sizeof(float) * factors + 256 : 0;
    return bytes > UINT64_MAX - more ? UINT64_MAX : bytes + more;
}

Result decode_stream(std::span<const std::uint8_t> stream, std::span<const std::uint8_t> blob,
                     std::vector<std::uint8_t>& symbols, std::uint64_t first, std::uint64_t count,
                     int threads) {
    symbols.resize(static_cast<std::size_t>(count));
    Result result = huffman::decode_range(stream, static_cast<std::size_t>(first), symbols,
                                          {.threads = threads, .verify = true});
    if (!result.ok()) result.count += offset_of(stream, blob);
    return result;
}

Result decode_row_lengths(const ParsedLayer& parsed, std::span<const std::uint8_t> blob,
                          std::vector<std::uint32_t>& lengths, int threads) {
    std::vector<std::uint8_t> bytes;
    const Result result =
        decode_stream(parsed.row_lengths, blob, bytes, 0, parsed.row_length_info.symbols, threads);
    if (!result.ok()) return result;
    const Result fault{Status::size_mismatch, offset_of(parsed.row_lengths, blob)};
    Cursor cursor(bytes);
    lengths.resize(parsed.matrix.rows);
    for (std::uint32_t& length : lengths) {
        const std::uint64_t value = cursor.varint();
        if (!cursor.ok() || value > UINT32_MAX) return fault;
        length = static_cast<std::uint32_t>(value);
    }
    return cursor.remaining() == 0 ? result : fault;
}

Result decode_contexts(const ParsedLayer& parsed, std::span<const std::uint8_t> blob,
                       std::vector<std::uint8_t>& codes) {
    std::vector<float> values;
    if (const Result r = read_values(parsed, blob, 0, parsed.value_count, values); !r.ok())
        return r;
    codes.resize(std::size_t{parsed.matrix.rows} * parsed.matrix.cols);
    Result result = contexts::decode_matrix(parsed.codes, contexts::grouping_of(parsed.shape),
                                            values, parsed.code_info.symbols, codes);
    if (!result.ok()) result.count += offset_of(parsed.codes, blob);
    return result;
}

Result read_values(const ParsedLayer& parsed, std::span<const std::uint8_t> blob,
                   std::uint64_t first, std::uint64_t count, std::vector<float>& values) {
    const std::size_t width = value_width(parsed.kind);
    const auto bytes = parsed.values.subspan(static_cast<std::size_t>(first) * width,
                                             static_cast<std::size_t>(count) * width);
    values.reserve(static_cast<std::size_t>(count));
    for (std::size_t at = 0; at < bytes.size(); at += width) {
        const float value = read_value(bytes.data() + at, parsed.kind);
        if (!std::isfinite(value)) return {Status::not_finite, offset_of(bytes, blob) + at};
        values.push_back(value);
    }
    return {Status::ok, blob.size()};
}

}  // namespace tersor::layer_parts
