// Reading the blob of one layer; docs/format.md has the bytes.
#include "tersor/layer.hpp"

#include <algorithm>
#include <numeric>

#include "container/parsed_layer.hpp"
#include "csr/wide_loops.hpp"

namespace tersor {
namespace {

using namespace layer_parts;

/// Whether the entries make a matrix, with codes that have values; counts the non-zeros.
Result check_entries(const ParsedLayer& parsed, std::span<const std::uint8_t> blob,
                     const RelativeCsr& csr, std::size_t& nonzeros) {
    const Result valid = csr::validate(csr);
    if (!valid.ok()) return {valid.status, offset_of(parsed.gaps, blob)};
    nonzeros = valid.count;
    const std::uint64_t limit = is_shared(parsed.kind) ? parsed.value_count : 1;
    if (csr::largest_code(csr.codes) > limit) {
        return {Status::code_past_codebook, offset_of(parsed.codes, blob)};
    }
    return {Status::ok, blob.size()};
}

Result read_factors(const ParsedLayer& parsed, Layer& layer) {
    const Result rows = decode_factors(parsed.row_factors, parsed.matrix.rows, layer.row_factors);
    if (!rows.ok()) return rows;
    return decode_factors(parsed.column_factors, parsed.matrix.cols, layer.column_factors);
}

/// Leaves the factors of `count` rows from `first` on.
void cut_row_factors(std::size_t first, std::size_t count, Layer& layer) {
    if (layer.row_factors.empty()) return;
    const auto from = layer.row_factors.begin() + static_cast<std::ptrdiff_t>(first);
    layer.row_factors = {from, from + static_cast<std::ptrdiff_t>(count)};
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
    cut_row_factors(first, count, layer);
    if (is_shared(layer.kind)) return;
    const auto from = layer.values.begin() + static_cast<std::ptrdiff_t>(before);
    layer.values = {from, from + static_cast<std::ptrdiff_t>(inside)};
}

/// The entries of all rows from the streams of codes, gaps and row lengths.
Result read_streams(const ParsedLayer& parsed, std::span<const std::uint8_t> blob, int threads,
                    RelativeCsr& csr) {
    const std::uint64_t entries = parsed.code_info.symbols;
    csr = {parsed.matrix.rows, parsed.matrix.cols, parsed.index_bits, parsed.flat, {}, {}, {}};
    if (const Result r = decode_stream(parsed.codes, blob, csr.codes, 0, entries, threads);
        !r.ok()) {
        return r;
    }
    if (const Result r = decode_stream(parsed.gaps, blob, csr.gaps, 0, entries, threads); !r.ok()) {
        return r;
    }
    if (parsed.flat) return {Status::ok, static_cast<std::size_t>(entries)};
    return decode_row_lengths(parsed, blob, csr.row_lengths, threads);
}

/// The entries of `count` rows from `first` on, of a blob of which only all rows decode.
Result read_contexts(const ParsedLayer& parsed, std::span<const std::uint8_t> blob,
                     std::size_t first, std::size_t count, RelativeCsr& csr) {
    std::vector<std::uint8_t> codes;
    const Result decoded = decode_contexts(parsed, blob, codes);
    if (!decoded.ok()) return decoded;
    const std::size_t cols = parsed.matrix.cols;
    csr = csr::encode(std::span(codes).subspan(first * cols, count * cols),
                      static_cast<std::uint32_t>(count), parsed.matrix.cols, parsed.index_bits,
                      parsed.flat);
    return decoded;
}

}  // namespace

bool is_layer(std::span<const std::uint8_t> blob) noexcept {
    return blob.size() >= magic.size() && std::equal(magic.begin(), magic.end(), blob.begin());
}

Result decode_layer(std::span<const std::uint8_t> blob, Layer& layer,
                    std::optional<std::size_t> max_bytes, int threads) {
    ParsedLayer parsed;
    if (const Result r = check_signature(blob); !r.ok()) return r;
    if (const Result r = check_hash(blob); !r.ok()) return r;
    if (const Result r = parse_layer(blob, parsed); !r.ok()) return r;
    if (decoded_bytes(parsed) > max_bytes.value_or(default_max_bytes(blob.size()))) {
        return {Status::too_large, offset_of(parsed.codes, blob)};
    }
    layer = Layer{parsed.shape, parsed.kind, {}, {}};
    layer.entropy = parsed.entropy;
    if (const Result r = read_factors(parsed, layer); !r.ok()) return r;
    const Result entries = parsed.entropy == Entropy::smallest
                               ? read_contexts(parsed, blob, 0, parsed.matrix.rows, layer.csr)
                               : read_streams(parsed, blob, threads, layer.csr);
    if (!entries.ok()) return entries;
    std::size_t nonzeros = 0;
    if (const Result r = check_entries(parsed, blob, layer.csr, nonzeros); !r.ok()) return r;
    if (nonzeros != parsed.code_info.symbols - parsed.fillers) {
        return {Status::size_mismatch, parsed.fillers_offset};
    }
    return read_values(parsed, blob, 0, parsed.value_count, layer.values);
}

Result decode_rows(std::span<const std::uint8_t> blob, std::size_t first, std::size_t count,
                   Layer& layer, bool verify, std::optional<std::size_t> max_bytes, int threads) {
    ParsedLayer parsed;
    if (const Result r = check_signature(blob); !r.ok()) return r;
    if (verify) {
        if (const Result r = check_hash(blob); !r.ok()) return r;
    }
    if (const Result r = parse_layer(blob, parsed); !r.ok()) return r;
    check(first <= parsed.matrix.rows && count <= parsed.matrix.rows - first,
          "it has no such rows");
    const std::size_t limit = max_bytes.value_or(default_max_bytes(blob.size()));
    const std::uint64_t dense =
        parsed.flat ? std::uint64_t{count} * parsed.matrix.cols : std::uint64_t{0};
    if (std::max(decoded_bytes(parsed), dense) > limit) {
        return {Status::too_large, offset_of(parsed.codes, blob)};
    }
    if (parsed.flat && parsed.entropy == Entropy::huffman) {
        const Result decoded = decode_layer(blob, layer, max_bytes, threads);
        if (decoded.ok()) cut_rows(first, count, layer);
        return decoded;
    }
    layer = Layer{parsed.shape, parsed.kind, {}, {}};
    layer.entropy = parsed.entropy;
    if (const Result r = read_factors(parsed, layer); !r.ok()) return r;
    cut_row_factors(first, count, layer);
    layer.shape[0] = count;
    if (parsed.entropy == Entropy::smallest) {
        const Result r = read_contexts(parsed, blob, first, count, layer.csr);
        return r.ok() ? read_values(parsed, blob, 0, parsed.value_count, layer.values) : r;
    }
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
    ParsedLayer parsed;
    if (const Result r = check_signature(blob); !r.ok()) return r;
    if (verify) {
        if (const Result r = check_hash(blob); !r.ok()) return r;
    }
    if (const Result r = parse_layer(blob, parsed); !r.ok()) return r;
    info = {};
    info.shape = parsed.shape;
    info.kind = parsed.kind;
    info.index_bits = parsed.index_bits;
    info.flat = parsed.flat;
    info.entropy = parsed.entropy;
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
    info.factor_bytes = parsed.factor_bytes;
    info.header_bytes = info.total_bytes - info.value_bytes - info.factor_bytes - info.code_bytes -
                        info.gap_bytes - info.row_length_bytes;
    info.decoded_bytes = decoded_bytes(parsed);
    info.packing_bytes = packing_bytes(parsed);
    info.nonzeros = info.entries - parsed.fillers;
    return {Status::ok, blob.size()};
}

}  // namespace tersor
