// Reading the blob of one layer; docs/format.md has the bytes.
#include "tersor/layer.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "container/layer_parts.hpp"
#include "hash/xxh3.hpp"
#include "support/little_endian.hpp"
#include "support/varint.hpp"
#include "tersor/huffman.hpp"

namespace tersor {
namespace {

using namespace layer_parts;
using hash::xxh3_64;
using support::Cursor;

/// A constant stream announces any number of symbols in a few bytes. Other streams spend half a bit
/// or more on each; what is more than that is believed up to here only, whatever the caller's own
/// limit.
constexpr std::uint64_t max_unbacked_symbols = std::uint64_t{1} << 28;

/// A blob taken apart; streams not decoded yet.
struct Parsed {
    std::vector<std::uint64_t> shape;
    MatrixShape matrix;
    ValueKind kind = ValueKind::shared_fp32;
    int index_bits = 0;
    bool flat = false;
    std::uint64_t value_count = 0;
    std::uint64_t fillers = 0;  // announced; only decoding finds out
    std::size_t fillers_offset = 0;
    std::span<const std::uint8_t> values, codes, gaps, row_lengths;
    huffman::StreamInfo code_info, gap_info, row_length_info;
};

std::size_t offset_of(std::span<const std::uint8_t> part, std::span<const std::uint8_t> blob) {
    return static_cast<std::size_t>(part.data() - blob.data());
}

/// What tells a blob of this version: the only bytes believed before the hash.
Result check_signature(std::span<const std::uint8_t> blob) noexcept {
    if (blob.size() < magic.size() + 1 + hash_bytes) return {Status::truncated, blob.size()};
    if (!is_layer(blob)) return {Status::bad_magic, 0};
    if (blob[magic.size()] != format_version) return {Status::unsupported_version, magic.size()};
    return {Status::ok, blob.size()};
}

Result check_hash(std::span<const std::uint8_t> blob) noexcept {
    const std::size_t end = blob.size() - hash_bytes;
    const auto stored = support::load_little_endian<std::uint64_t>(blob.data() + end);
    if (stored != xxh3_64(blob.first(end))) return {Status::hash_mismatch, end};
    return {Status::ok, blob.size()};
}

/// How many symbols a blob may announce: two for each bit, or what a constant stream may.
std::uint64_t backed_symbols(std::span<const std::uint8_t> blob) noexcept {
    return std::max<std::uint64_t>(16 * std::uint64_t{blob.size()}, max_unbacked_symbols);
}

/// Takes a blob with a good signature apart.
Result parse(std::span<const std::uint8_t> blob, Parsed& parsed) {
    Cursor cursor(blob.first(blob.size() - hash_bytes));
    (void)cursor.take(magic.size() + 1);

    const std::uint8_t flags = cursor.byte();
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
    parsed.fillers = cursor.varint();
    const std::uint64_t code_bytes = cursor.varint();
    const std::uint64_t gap_bytes = cursor.varint();
    if (parsed.value_count > blob.size() ||
        (is_shared(parsed.kind) && parsed.value_count > max_clusters)) {
        cursor.fail(Status::too_large);
    }
    parsed.values = cursor.take(parsed.value_count * value_width(parsed.kind));
    parsed.codes = cursor.take(code_bytes);
    parsed.gaps = cursor.take(gap_bytes);
    parsed.row_lengths = cursor.rest();
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
    // Every entry advances by a weight at least, and a row's length takes at most five bytes.
    const std::uint64_t weights = std::uint64_t{parsed.matrix.rows} * parsed.matrix.cols;
    const std::uint64_t backed = backed_symbols(blob);
    if (parsed.code_info.symbols > std::min(weights, backed)) {
        return {Status::too_large, offset_of(parsed.codes, blob)};
    }
    if (parsed.row_length_info.symbols > std::min(std::uint64_t{parsed.matrix.rows} * 5, backed)) {
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

/// What decoding holds at once: codes, gaps, the bytes of the row lengths, these, the values.
std::uint64_t decoded_bytes(const Parsed& parsed) noexcept {
    return 2 * parsed.code_info.symbols + parsed.row_length_info.symbols +
           (parsed.flat ? 0 : sizeof(std::uint32_t) * std::uint64_t{parsed.matrix.rows}) +
           sizeof(float) * parsed.value_count;
}

/// The symbols from `first` on.
Result decode_stream(std::span<const std::uint8_t> stream, std::span<const std::uint8_t> blob,
                     std::vector<std::uint8_t>& symbols, std::uint64_t first, std::uint64_t count,
                     int threads) {
    symbols.resize(static_cast<std::size_t>(count));
    Result result = huffman::decode_range(stream, static_cast<std::size_t>(first), symbols,
                                          {.threads = threads, .verify = true});
    if (!result.ok()) result.count += offset_of(stream, blob);
    return result;
}

Result decode_row_lengths(const Parsed& parsed, std::span<const std::uint8_t> blob,
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

/// Whether the entries make a matrix, with codes that have values; counts the non-zeros.
Result check_entries(const Parsed& parsed, std::span<const std::uint8_t> blob,
                     const RelativeCsr& csr, std::size_t& nonzeros) {
    const Result valid = csr::validate(csr);
    if (!valid.ok()) return {valid.status, offset_of(parsed.gaps, blob)};
    nonzeros = valid.count;
    const std::uint64_t limit = is_shared(parsed.kind) ? parsed.value_count : 1;
    std::uint8_t largest = 0;  // in a loop that the compiler makes wide
    for (const std::uint8_t code : csr.codes) largest = std::max(largest, code);
    if (largest > limit) {
        return {Status::code_past_codebook, offset_of(parsed.codes, blob)};
    }
    return {Status::ok, blob.size()};
}

Result read_values(const Parsed& parsed, std::span<const std::uint8_t> blob, std::uint64_t first,
                   std::uint64_t count, std::vector<float>& values) {
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

/// Leaves `count` rows of a flat layer, from `first` on.
void cut_rows(std::size_t first, std::size_t count, Layer& layer) {
    const RelativeCsr& whole = layer.csr;
    const std::uint64_t begin = std::uint64_t{first} * whole.cols;
    const std::uint64_t end = begin + std::uint64_t{count} * whole.cols;
    std::vector<std::uint8_t> codes(static_cast<std::size_t>(end - begin));
    std::size_t before = 0, inside = 0;  // non-zeros
    std::uint64_t at = 0;
    for (std::size_t i = 0; i < whole.codes.size(); ++i) {
        at += whole.gaps[i];
        if (whole.codes[i] != 0) {
            before += at < begin ? 1 : 0;
            if (at >= begin && at < end) {
                codes[static_cast<std::size_t>(at - begin)] = whole.codes[i];
                ++inside;
            }
        }
        ++at;
    }
    layer.csr =
        csr::encode(codes, static_cast<std::uint32_t>(count), whole.cols, whole.index_bits, true);
    layer.shape[0] = count;
    if (is_shared(layer.kind)) return;
    const auto from = layer.values.begin() + static_cast<std::ptrdiff_t>(before);
    layer.values = {from, from + static_cast<std::ptrdiff_t>(inside)};
}

}  // namespace

bool is_layer(std::span<const std::uint8_t> blob) noexcept {
    return blob.size() >= magic.size() && std::equal(magic.begin(), magic.end(), blob.begin());
}

Result decode_layer(std::span<const std::uint8_t> blob, Layer& layer, std::size_t max_bytes,
                    int threads) {
    Parsed parsed;
    if (const Result r = check_signature(blob); !r.ok()) return r;
    if (const Result r = check_hash(blob); !r.ok()) return r;
    if (const Result r = parse(blob, parsed); !r.ok()) return r;
    if (decoded_bytes(parsed) > max_bytes)
        return {Status::too_large, offset_of(parsed.codes, blob)};
    const std::uint64_t entries = parsed.code_info.symbols;
    layer = Layer{parsed.shape, parsed.kind, {}, {}};
    RelativeCsr& csr = layer.csr;
    csr = {parsed.matrix.rows, parsed.matrix.cols, parsed.index_bits, parsed.flat, {}, {}, {}};
    if (const Result r = decode_stream(parsed.codes, blob, csr.codes, 0, entries, threads);
        !r.ok()) {
        return r;
    }
    if (const Result r = decode_stream(parsed.gaps, blob, csr.gaps, 0, entries, threads); !r.ok()) {
        return r;
    }
    if (!parsed.flat) {
        if (const Result r = decode_row_lengths(parsed, blob, csr.row_lengths, threads); !r.ok()) {
            return r;
        }
    }
    std::size_t nonzeros = 0;
    if (const Result r = check_entries(parsed, blob, csr, nonzeros); !r.ok()) return r;
    if (nonzeros != entries - parsed.fillers) return {Status::size_mismatch, parsed.fillers_offset};
    return read_values(parsed, blob, 0, parsed.value_count, layer.values);
}

Result decode_rows(std::span<const std::uint8_t> blob, std::size_t first, std::size_t count,
                   Layer& layer, bool verify, std::size_t max_bytes, int threads) {
    Parsed parsed;
    if (const Result r = check_signature(blob); !r.ok()) return r;
    if (verify) {
        if (const Result r = check_hash(blob); !r.ok()) return r;
    }
    if (const Result r = parse(blob, parsed); !r.ok()) return r;
    check(first <= parsed.matrix.rows && count <= parsed.matrix.rows - first,
          "it has no such rows");
    if (decoded_bytes(parsed) > max_bytes)
        return {Status::too_large, offset_of(parsed.codes, blob)};
    if (parsed.flat) {
        const std::uint64_t dense = std::uint64_t{count} * parsed.matrix.cols;
        if (dense > std::min<std::uint64_t>(max_bytes, backed_symbols(blob))) {
            return {Status::too_large, offset_of(parsed.codes, blob)};
        }
        const Result decoded = decode_layer(blob, layer, max_bytes, threads);
        if (decoded.ok()) cut_rows(first, count, layer);
        return decoded;
    }
    layer = Layer{parsed.shape, parsed.kind, {}, {}};
    layer.shape[0] = count;
    RelativeCsr& csr = layer.csr;
    std::vector<std::uint32_t> lengths;
    if (const Result r = decode_row_lengths(parsed, blob, lengths, threads); !r.ok()) return r;
    const auto begin = lengths.begin() + static_cast<std::ptrdiff_t>(first);
    const auto end = begin + static_cast<std::ptrdiff_t>(count);
    const std::uint64_t before = std::accumulate(lengths.begin(), begin, std::uint64_t{0});
    const std::uint64_t entries = std::accumulate(begin, end, std::uint64_t{0});
    if (before + entries > parsed.code_info.symbols) {
        return {Status::size_mismatch, offset_of(parsed.row_lengths, blob)};
    }
    csr = {static_cast<std::uint32_t>(count),
           parsed.matrix.cols,
           parsed.index_bits,
           false,
           {},
           {},
           {begin, end}};
    // Where every non-zero has a value of its own, the codes before tell how many to pass over.
    std::uint64_t values_before = 0;
    if (!is_shared(parsed.kind)) {
        std::vector<std::uint8_t> codes;
        if (const Result r = decode_stream(parsed.codes, blob, codes, 0, before, threads);
            !r.ok()) {
            return r;
        }
        values_before = before - static_cast<std::uint64_t>(std::ranges::count(codes, 0));
    }
    if (const Result r = decode_stream(parsed.codes, blob, csr.codes, before, entries, threads);
        !r.ok()) {
        return r;
    }
    if (const Result r = decode_stream(parsed.gaps, blob, csr.gaps, before, entries, threads);
        !r.ok()) {
        return r;
    }
    std::size_t nonzeros = 0;
    if (const Result r = check_entries(parsed, blob, csr, nonzeros); !r.ok()) return r;
    if (is_shared(parsed.kind))
        return read_values(parsed, blob, 0, parsed.value_count, layer.values);
    if (values_before + nonzeros > parsed.value_count) {
        return {Status::size_mismatch, parsed.fillers_offset};
    }
    return read_values(parsed, blob, values_before, nonzeros, layer.values);
}

Result inspect_layer(std::span<const std::uint8_t> blob, LayerInfo& info, bool verify) {
    Parsed parsed;
    if (const Result r = check_signature(blob); !r.ok()) return r;
    if (verify) {
        if (const Result r = check_hash(blob); !r.ok()) return r;
    }
    if (const Result r = parse(blob, parsed); !r.ok()) return r;
    info = {};
    info.shape = parsed.shape;
    info.kind = parsed.kind;
    info.index_bits = parsed.index_bits;
    info.flat = parsed.flat;
    info.weights = std::uint64_t{parsed.matrix.rows} * parsed.matrix.cols;
    info.entries = parsed.code_info.symbols;
    info.clusters = is_shared(parsed.kind) ? parsed.value_count : 0;
    info.value_bytes = parsed.values.size();
    info.code_bytes = parsed.codes.size();
    info.code_bits = parsed.code_info.payload_bits;
    info.gap_bytes = parsed.gaps.size();
    info.gap_bits = parsed.gap_info.payload_bits;
    info.row_length_bytes = parsed.row_lengths.size();
    info.total_bytes = blob.size();
    info.header_bytes = info.total_bytes - info.value_bytes - info.code_bytes - info.gap_bytes -
                        info.row_length_bytes;
    info.decoded_bytes = decoded_bytes(parsed);
    info.nonzeros = info.entries - parsed.fillers;
    return {Status::ok, blob.size()};
}

}  // namespace tersor
