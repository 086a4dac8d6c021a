// The self-describing stream: number of symbols, kind, table, code words. docs/format.md has the
// bytes. Long streams hold four bit streams, so that four independent chains of look-ups overlap.
#include <algorithm>
#include <array>

#include "huffman/canonical.hpp"
#include "huffman/kernels.hpp"
#include "support/varint.hpp"
#include "tersor/huffman.hpp"

namespace tersor::huffman {
namespace {

using support::append_varint;
using support::Cursor;

enum class Kind : std::uint8_t {
    constant,     // one symbol, repeated
    stored,       // a fixed number of bits each
    single,       // one bit stream of code words
    interleaved,  // four bit streams, each a quarter of the symbols
};

constexpr std::size_t interleave_from = 4096;  // symbols; below, three more sizes cost too much

int stored_width(std::uint8_t largest) noexcept {
    int width = 1;
    while (largest >> width != 0) ++width;
    return width;
}

std::array<std::size_t, 5> quarters(std::size_t symbols) noexcept {
    const std::size_t quarter = (symbols + 3) / 4;
    std::array<std::size_t, 5> bounds{};
    for (std::size_t i = 0; i < 5; ++i) bounds[i] = std::min(i * quarter, symbols);
    return bounds;
}

/// Appends words to bytes, the first bit lowest.
class BitWriter {
public:
    explicit BitWriter(std::vector<std::uint8_t>& out) noexcept : out_(out) {}
    void put(std::uint64_t word, int length) {
        bits_ |= word << filled_;
        for (filled_ += length; filled_ >= 8; filled_ -= 8, bits_ >>= 8) {
            out_.push_back(static_cast<std::uint8_t>(bits_));
        }
    }
    void flush() {
        if (filled_ > 0) out_.push_back(static_cast<std::uint8_t>(bits_));
        bits_ = 0;
        filled_ = 0;
    }

private:
    std::vector<std::uint8_t>& out_;
    std::uint64_t bits_ = 0;
    int filled_ = 0;
};

void append_words(std::span<const std::uint8_t> symbols, const CodeWords& words,
                  const CodeLengths& lengths, std::vector<std::uint8_t>& out) {
    BitWriter writer(out);
    for (const std::uint8_t s : symbols) writer.put(words[s], lengths[s]);
    writer.flush();
}

std::vector<std::uint8_t> coded_body(std::span<const std::uint8_t> symbols,
                                     const Histogram& counts) {
    const CodeLengths lengths = code_lengths(counts, max_stream_length);
    const CodeWords words = canonical_words(lengths);
    const bool interleaved = symbols.size() >= interleave_from;
    std::vector<std::uint8_t> body{
        static_cast<std::uint8_t>(interleaved ? Kind::interleaved : Kind::single)};
    append_lengths(lengths, body);
    if (!interleaved) {
        append_words(symbols, words, lengths, body);
        return body;
    }
    const auto bounds = quarters(symbols.size());
    std::vector<std::uint8_t> bits;
    for (std::size_t q = 0; q < 4; ++q) {
        const std::size_t before = bits.size();
        append_words(symbols.subspan(bounds[q], bounds[q + 1] - bounds[q]), words, lengths, bits);
        if (q < 3) append_varint(bits.size() - before, body);
    }
    body.insert(body.end(), bits.begin(), bits.end());
    return body;
}

std::vector<std::uint8_t> stored_body(std::span<const std::uint8_t> symbols, int width) {
    std::vector<std::uint8_t> body{static_cast<std::uint8_t>(Kind::stored),
                                   static_cast<std::uint8_t>(width)};
    BitWriter writer(body);
    for (const std::uint8_t s : symbols) writer.put(s, width);
    writer.flush();
    return body;
}

/// A stream taken apart, its sizes checked against its length.
struct Parsed {
    StreamInfo info;
    Kind kind = Kind::constant;
    std::uint8_t parameter = 0;  // the constant symbol, or the stored width
    CodeLengths lengths{};
    std::array<std::span<const std::uint8_t>, 4> bit_streams;
};

Result parse(std::span<const std::uint8_t> stream, Parsed& parsed) noexcept {
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
    if (kind > static_cast<std::uint8_t>(Kind::interleaved)) {
        return {Status::bad_header, cursor.position() - 1};
    }
    parsed.kind = static_cast<Kind>(kind);
    std::uint64_t least_bits = symbols;  // no code word is shorter than a bit
    if (parsed.kind == Kind::constant || parsed.kind == Kind::stored) {
        parsed.parameter = cursor.byte();
        if (!cursor.ok()) return cursor.result();
    }
    if (parsed.kind == Kind::constant) {
        least_bits = 0;
    } else if (parsed.kind == Kind::stored) {
        if (parsed.parameter < 1 || parsed.parameter > 8) {
            return {Status::bad_header, cursor.position() - 1};
        }
        least_bits = symbols > UINT64_MAX / 8 ? UINT64_MAX : symbols * parsed.parameter;
    } else {
        const Result read = read_lengths(cursor.rest(), parsed.lengths);
        if (!read.ok()) return {read.status, cursor.position() + read.count};
        (void)cursor.take(read.count);
    }
    std::array<std::uint64_t, 4> sizes{};
    if (parsed.kind == Kind::interleaved) {
        for (std::size_t q = 0; q < 3; ++q) sizes[q] = cursor.varint();
        if (!cursor.ok()) return cursor.result();
    }
    parsed.info.header_bytes = cursor.position();
    const std::uint64_t payload = cursor.remaining();
    if (payload < least_bits / 8) return {Status::truncated, stream.size()};
    parsed.info.payload_bits = payload * 8;
    for (std::size_t q = 0; q < 3; ++q) {
        parsed.bit_streams[q] = cursor.take(sizes[q]);
        if (!cursor.ok()) return cursor.result();
    }
    parsed.bit_streams[3] = cursor.rest();  // the only one of the kinds that are not interleaved
    if (parsed.kind == Kind::constant && payload != 0) {
        return {Status::trailing_bytes, cursor.position()};
    }
    return {Status::ok, static_cast<std::size_t>(symbols)};
}

std::size_t offset_in(std::span<const std::uint8_t> stream, std::span<const std::uint8_t> part) {
    return static_cast<std::size_t>(part.data() - stream.data());
}

Result decode_stored(std::span<const std::uint8_t> bits, int width,
                     std::span<std::uint8_t> symbols) noexcept {
    const std::uint64_t total = std::uint64_t{symbols.size()} * static_cast<unsigned>(width);
    const std::uint64_t expected = (total + 7) / 8;
    if (bits.size() < expected) return {Status::truncated, bits.size()};
    if (bits.size() > expected) return {Status::trailing_bytes, expected};
    std::size_t at = 0;
    const unsigned mask = (1U << width) - 1;
    for (std::uint8_t& symbol : symbols) {
        const std::size_t byte = at / 8;
        const unsigned low = bits[byte];
        const unsigned high = byte + 1 < bits.size() ? bits[byte + 1] : 0U;
        symbol = static_cast<std::uint8_t>(((low | (high << 8)) >> (at % 8)) & mask);
        at += static_cast<std::size_t>(width);
    }
    if (at % 8 != 0 && bits.back() >> (at % 8) != 0) {
        return {Status::bad_code_word, bits.size() - 1};
    }
    return {Status::ok, bits.size()};
}

}  // namespace

Histogram histogram(std::span<const std::uint8_t> symbols) noexcept {
    // Four tables, so that equal neighbours do not wait for each other's store.
    std::array<Histogram, 4> parts{};
    std::size_t i = 0;
    for (; i + 4 <= symbols.size(); i += 4) {
        for (std::size_t p = 0; p < 4; ++p) ++parts[p][symbols[i + p]];
    }
    for (; i < symbols.size(); ++i) ++parts[0][symbols[i]];
    Histogram total{};
    for (std::size_t s = 0; s < alphabet_size; ++s) {
        total[s] = parts[0][s] + parts[1][s] + parts[2][s] + parts[3][s];
    }
    return total;
}

std::vector<std::uint8_t> encode(std::span<const std::uint8_t> symbols) {
    std::vector<std::uint8_t> stream;
    append_varint(symbols.size(), stream);
    if (symbols.empty()) return stream;
    const Histogram counts = histogram(symbols);
    const auto distinct =
        std::count_if(counts.begin(), counts.end(), [](auto c) { return c != 0; });
    std::vector<std::uint8_t> body;
    if (distinct == 1) {
        body = {static_cast<std::uint8_t>(Kind::constant), symbols[0]};
    } else {
        body = coded_body(symbols, counts);
        const int width = stored_width(*std::max_element(symbols.begin(), symbols.end()));
        const std::size_t stored_bytes =
            2 + (symbols.size() * static_cast<std::size_t>(width) + 7) / 8;
        if (stored_bytes <= body.size()) body = stored_body(symbols, width);
    }
    stream.insert(stream.end(), body.begin(), body.end());
    return stream;
}

Result inspect(std::span<const std::uint8_t> stream, StreamInfo& info) noexcept {
    Parsed parsed;
    const Result result = parse(stream, parsed);
    info = parsed.info;
    return result;
}

Result decode(std::span<const std::uint8_t> stream, std::span<std::uint8_t> symbols) noexcept {
    Parsed parsed;
    const Result result = parse(stream, parsed);
    if (!result.ok()) return result;
    if (parsed.info.symbols != symbols.size()) return {Status::size_mismatch, 0};
    if (symbols.empty()) return {Status::ok, 0};

    const std::span<const std::uint8_t> last = parsed.bit_streams[3];
    Result decoded{};
    switch (parsed.kind) {
        case Kind::constant: std::fill(symbols.begin(), symbols.end(), parsed.parameter); break;
        case Kind::stored:
            decoded = decode_stored(last, parsed.parameter, symbols);
            if (!decoded.ok()) decoded.count += offset_in(stream, last);
            break;
        case Kind::single:
        case Kind::interleaved: {
            DecodeTable table;
            build_table(parsed.lengths, table);
            // The four bit streams are checked in order, so the first fault is the one reported.
            if (parsed.kind == Kind::single) {
                decoded = decode_words(last, table, symbols);
                if (!decoded.ok()) decoded.count += offset_in(stream, last);
                break;
            }
            const auto bounds = quarters(symbols.size());
            std::array<std::span<std::uint8_t>, 4> outputs;
            for (std::size_t q = 0; q < 4; ++q) {
                outputs[q] = symbols.subspan(bounds[q], bounds[q + 1] - bounds[q]);
            }
            std::size_t faulty = 0;
            decoded = decode_interleaved(parsed.bit_streams, table, outputs, faulty);
            if (!decoded.ok()) decoded.count += offset_in(stream, parsed.bit_streams[faulty]);
            break;
        }
    }
    if (!decoded.ok()) return decoded;
    return {Status::ok, symbols.size()};
}

}  // namespace tersor::huffman
