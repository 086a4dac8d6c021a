#include <algorithm>

#include "huffman/bit_sliced_code.hpp"
#include "huffman/bits.hpp"
#include "huffman/canonical.hpp"
#include "huffman/kernels.hpp"
#include "huffman/plane_block.hpp"
#include "huffman/stream.hpp"
#include "huffman/words.hpp"
#include "support/varint.hpp"
#include "tersor/huffman.hpp"
#include "tersor/parallel.hpp"

namespace tersor::huffman {
namespace {

using support::Cursor;

constexpr int min_block_log2 = 10;
constexpr int max_block_log2 = 24;
/// Decoded streams of this size and more are stored past the caches.
constexpr std::size_t streaming_from = std::size_t{1} << 22;

/// A stream taken apart, its sizes checked against its length.
struct Parsed {
    StreamInfo info;
    StreamKind kind = StreamKind::constant;
    std::uint8_t parameter = 0;  // the constant symbol, the stored width, or log2 of a block
    CodeLengths lengths{};
    BlockCode code;
    std::vector<std::size_t> block_sizes;
    std::span<const std::uint8_t> payload;

    [[nodiscard]] std::size_t symbols_per_block() const noexcept {
        return std::size_t{1} << parameter;
    }
};

Result parse_blocks(Cursor& cursor, Parsed& parsed) {
    const Result read = read_bit_sliced_code(cursor.remaining_bytes(), parsed.code.planes);
    if (!read.ok()) return {read.status, cursor.position() + read.count};
    (void)cursor.take(read.count);
    const std::uint64_t blocks = (parsed.info.symbols - 1) / parsed.symbols_per_block() + 1;
    if (blocks > cursor.remaining()) return {Status::truncated, cursor.position()};
    std::uint64_t total = 0;
    for (std::uint64_t b = 0; b < blocks; ++b) {
        const std::uint64_t size = cursor.varint();
        if (!cursor.ok()) return cursor.result();
        if (size > cursor.remaining()) return {Status::truncated, cursor.position()};
        parsed.block_sizes.push_back(static_cast<std::size_t>(size));
        total += size;
    }
    if (total > cursor.remaining()) return {Status::truncated, cursor.position()};
    if (total < cursor.remaining()) {
        return {Status::trailing_bytes, cursor.position() + static_cast<std::size_t>(total)};
    }
    return {Status::ok, 0};
}

Result parse(std::span<const std::uint8_t> stream, Parsed& parsed) {
    Cursor cursor(stream);
    const std::uint64_t symbols = cursor.varint();
    parsed.info.symbols = symbols;
    if (!cursor.ok()) return cursor.result();
    if (symbols == 0) {
        parsed.info.header_bytes = cursor.position();
        return cursor.remaining() == 0 ? cursor.result()
                                       : Result{Status::trailing_bytes, cursor.position()};
    }
    const std::uint8_t kind = cursor.byte();
    if (!cursor.ok()) return cursor.result();
    if (kind > static_cast<std::uint8_t>(last_stream_kind)) {
        return {Status::bad_header, cursor.position() - 1};
    }
    parsed.kind = static_cast<StreamKind>(kind);
    if (parsed.kind != StreamKind::words) parsed.parameter = cursor.byte();
    if (!cursor.ok()) return cursor.result();
    std::uint64_t least_bits = symbols;  // no code word is shorter than a bit
    switch (parsed.kind) {
        case StreamKind::constant: least_bits = 0; break;
        case StreamKind::stored:
            if (parsed.parameter < 1 || parsed.parameter > 8) {
                return {Status::bad_header, cursor.position() - 1};
            }
            least_bits = symbols > UINT64_MAX / 8 ? UINT64_MAX : symbols * parsed.parameter;
            break;
        case StreamKind::words: {
            const Result read = read_lengths(cursor.remaining_bytes(), parsed.lengths);
            if (!read.ok()) return {read.status, cursor.position() + read.count};
            (void)cursor.take(read.count);
            break;
        }
        case StreamKind::pairs:
            parsed.code.pairs = true;
            least_bits = symbols / 2;
            [[fallthrough]];
        case StreamKind::planes:
            if (parsed.parameter < min_block_log2 || parsed.parameter > max_block_log2) {
                return {Status::bad_header, cursor.position() - 1};
            }
            if (const Result r = parse_blocks(cursor, parsed); !r.ok()) return r;
            break;
    }
    parsed.info.header_bytes = cursor.position();
    parsed.payload = cursor.remaining_bytes();
    if (parsed.payload.size() < least_bits / 8) return {Status::truncated, stream.size()};
    parsed.info.payload_bits = std::uint64_t{parsed.payload.size()} * 8;
    switch (parsed.kind) {
        case StreamKind::constant: break;
        case StreamKind::stored:
        case StreamKind::words: parsed.info.block_symbols = symbols; break;
        case StreamKind::planes:
        case StreamKind::pairs: parsed.info.block_symbols = parsed.symbols_per_block(); break;
    }
    if (parsed.kind == StreamKind::constant && !parsed.payload.empty()) {
        return {Status::trailing_bytes, cursor.position()};
    }
    return {Status::ok, 0};
}

/// The symbols from `first` on of a stream of blocks; whole blocks go straight to their place.
Result decode_blocks(const Parsed& parsed, std::size_t payload_offset, std::size_t first,
                     std::span<std::uint8_t> symbols, const DecodeOptions& options) {
    const DecodeKernels& used = decode_kernels(isa_in_use());
    const std::size_t per_block = parsed.symbols_per_block();
    const auto total = static_cast<std::size_t>(parsed.info.symbols);
    const std::size_t first_block = first / per_block;
    const std::size_t blocks = (first + symbols.size() - 1) / per_block + 1 - first_block;
    std::vector<std::size_t> starts(parsed.block_sizes.size() + 1, 0);
    for (std::size_t b = 0; b < parsed.block_sizes.size(); ++b) {
        starts[b + 1] = starts[b] + parsed.block_sizes[b];
    }
    const bool aligned =
        (reinterpret_cast<std::uintptr_t>(symbols.data()) % 64) == 0 && first % per_block == 0;
    const BlockOptions block_options{.verify = options.verify,
                                     .streaming = aligned && symbols.size() >= streaming_from};
    std::vector<Result> results(blocks);
    parallel_for(blocks, 1, options.threads, [&](std::size_t begin, std::size_t end) {
        Scratch scratch;
        Scratch partial;
        for (std::size_t i = begin; i < end; ++i) {
            const std::size_t b = first_block + i;
            const std::size_t from = b * per_block;
            const std::size_t size = std::min(per_block, total - from);
            const auto block = parsed.payload.subspan(starts[b], parsed.block_sizes[b]);
            const std::size_t readable = parsed.payload.size() - starts[b + 1];
            if (from >= first && from + size <= first + symbols.size()) {
                results[i] =
                    decode_block(used, parsed.code, block, readable,
                                 symbols.subspan(from - first, size), block_options, scratch);
            } else {
                const std::span<std::uint8_t> whole(partial.reserve(size), size);
                results[i] = decode_block(used, parsed.code, block, readable, whole,
                                          {.verify = options.verify, .streaming = false}, scratch);
                const std::size_t begin_at = std::max(from, first);
                const std::size_t end_at = std::min(from + size, first + symbols.size());
                std::copy(whole.data() + (begin_at - from), whole.data() + (end_at - from),
                          symbols.data() + (begin_at - first));
            }
            if (!results[i].ok()) results[i].count += payload_offset + starts[b];
        }
    });
    for (const Result& result : results) {
        if (!result.ok()) return result;
    }
    return {Status::ok, symbols.size()};
}

}  // namespace

Result inspect(std::span<const std::uint8_t> stream, StreamInfo& info) {
    Parsed parsed;
    const Result result = parse(stream, parsed);
    info = parsed.info;
    return result;
}

Result decode_range(std::span<const std::uint8_t> stream, std::size_t first,
                    std::span<std::uint8_t> symbols, const DecodeOptions& options) {
    Parsed parsed;
    if (const Result result = parse(stream, parsed); !result.ok()) return result;
    if (first > parsed.info.symbols || symbols.size() > parsed.info.symbols - first) {
        return {Status::size_mismatch, 0};
    }
    if (symbols.empty()) return {Status::ok, 0};
    const std::size_t offset = parsed.info.header_bytes;
    switch (parsed.kind) {
        case StreamKind::constant:
            std::fill(symbols.begin(), symbols.end(), parsed.parameter);
            break;
        case StreamKind::planes:
        case StreamKind::pairs: return decode_blocks(parsed, offset, first, symbols, options);
        case StreamKind::stored:
        case StreamKind::words: {
            // These have one block: all of it.
            std::vector<std::uint8_t> whole;
            std::span<std::uint8_t> target = symbols;
            if (symbols.size() != parsed.info.symbols) {
                whole.resize(static_cast<std::size_t>(parsed.info.symbols));
                target = whole;
            }
            Result decoded;
            if (parsed.kind == StreamKind::stored) {
                decoded = read_fields(parsed.payload, parsed.parameter, target);
            } else {
                DecodeTable table;
                build_table(parsed.lengths, table);
                decoded = decode_words(parsed.payload, table, target);
            }
            if (!decoded.ok()) return {decoded.status, decoded.count + offset};
            if (!whole.empty()) {
                std::copy_n(whole.data() + first, symbols.size(), symbols.data());
            }
            break;
        }
    }
    return {Status::ok, symbols.size()};
}

Result decode(std::span<const std::uint8_t> stream, std::span<std::uint8_t> symbols,
              const DecodeOptions& options) {
    Cursor cursor(stream);
    const std::uint64_t announced = cursor.varint();
    if (!cursor.ok()) return cursor.result();
    if (announced != symbols.size()) return {Status::size_mismatch, 0};
    return decode_range(stream, 0, symbols, options);
}

}  // namespace tersor::huffman
