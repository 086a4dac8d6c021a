// Reading the head of a blob: nothing of it is believed that the blob's own length does not bear.
#include "hash/xxh3.hpp"
#include "lossless/blob.hpp"
#include "support/checked_size.hpp"
#include "support/little_endian.hpp"
#include "support/varint.hpp"

namespace tersor::lossless {
namespace {

using support::Cursor;

/// Type, form and shape, after the signature.
Result read_shape(Cursor& cursor, ParsedBlob& parsed) {
    const std::uint8_t type = cursor.byte();
    const std::uint64_t dimensions = cursor.varint();
    if (!cursor.ok()) return cursor.result();
    parsed.type = type & type_mask;
    if (parsed.type == 0 || parsed.type > support::element_types.size() ||
        type >> form_shift > static_cast<std::uint8_t>(Form::blocks) ||
        dimensions > max_dimensions) {
        return {Status::bad_header, magic.size() + 1};
    }
    parsed.form = static_cast<Form>(type >> form_shift);
    parsed.layout = layout_of(parsed.type);
    parsed.bytes = support::element_types[parsed.type - 1U].bytes;
    for (std::uint64_t d = 0; cursor.ok() && d < dimensions; ++d) {
        parsed.shape.push_back(cursor.varint());
        if (!support::multiply_size(parsed.bytes, parsed.shape.back())) {
            cursor.fail(Status::too_large);
        }
    }
    parsed.elements = parsed.bytes / parsed.layout.width;
    return cursor.result();
}

void read_joined(Cursor& cursor, Layout& layout) {
    const std::uint8_t joined = cursor.byte();
    if (joined > max_joined) cursor.fail(Status::bad_header);
    layout.joined = joined;
    if (joined > 0) layout.base = cursor.byte();
}

/// The codes of a field that is sliced, and of how many blocks each is; the last symbol of all.
unsigned read_codes(Cursor& cursor, std::uint64_t blocks, FieldCode& field) {
    const bool pairs = field.kind == FieldKind::pairs;
    unsigned last = 0;
    std::uint64_t first = 0;
    for (bool more = true; more && cursor.ok();) {
        const std::uint64_t served = cursor.varint();
        more = served != 0;
        // One content has one form: what serves the last blocks says so.
        if (served >= blocks - first) cursor.fail(Status::bad_header);
        BlocksCode& next = field.codes.emplace_back();
        next.first = static_cast<std::size_t>(first);
        next.code.pairs = pairs;
        if (!cursor.ok()) break;
        const Result read =
            huffman::read_bit_sliced_code(cursor.remaining_bytes(), next.code.planes);
        (void)cursor.take(read.count);
        if (!read.ok()) cursor.fail(read.status);
        last = std::max<unsigned>(last, next.code.planes.last_symbol);
        first += served;
    }
    return pairs ? 15 : last;
}

/// A field's kind and table. Its symbols must have no more bits than the field.
void read_field(Cursor& cursor, int bits, std::uint64_t blocks, FieldCode& field) {
    const std::uint8_t kind = cursor.byte();
    if (kind > static_cast<std::uint8_t>(FieldKind::pairs)) cursor.fail(Status::bad_header);
    if (!cursor.ok()) return;
    field.kind = static_cast<FieldKind>(kind);
    unsigned last = 0;
    Result read{Status::ok, 0};
    switch (field.kind) {
        case FieldKind::constant: last = field.constant = cursor.byte(); break;
        case FieldKind::plain: break;
        case FieldKind::words:
            read = huffman::read_lengths(cursor.remaining_bytes(), field.lengths);
            for (unsigned s = 0; s < field.lengths.size(); ++s) {
                if (field.lengths[s] != 0) last = s;
            }
            break;
        case FieldKind::sliced:
        case FieldKind::pairs: last = read_codes(cursor, blocks, field); break;
    }
    (void)cursor.take(read.count);
    if (!read.ok()) cursor.fail(read.status);
    if (last >> bits != 0) cursor.fail(Status::bad_header);
}

std::size_t count_coded(const ParsedBlob& parsed) noexcept {
    std::size_t coded = 0;
    for (std::size_t f = 0; f < parsed.layout.width; ++f) {
        coded += is_coded(parsed.fields[f].kind) ? 1 : 0;
    }
    return coded;
}

std::uint64_t block_bytes(const ParsedBlob& parsed, const BlockSizes& sizes,
                          std::size_t elements) noexcept {
    std::uint64_t total = 0;
    bool covered = false;
    for (std::size_t f = 0; f < parsed.layout.width; ++f) {
        const FieldCode& field = parsed.fields[f];
        if (field.kind == FieldKind::constant) continue;
        const std::uint32_t coded = sizes.coded[f];
        covered |= is_covered(field, coded);
        total += coded != 0 ? coded : parsed.layout.plain_bytes(f, elements);
    }
    return total + (covered ? checksum_bytes : 0);
}

/// The size of the last coded field of the last block: the one with which the block fills what is
/// left. A field that is stored as it is has one size, and a coded one is smaller.
bool find_last_size(const ParsedBlob& parsed, std::size_t left, std::size_t field,
                    std::size_t elements, BlockSizes& sizes) noexcept {
    sizes.coded[field] = 0;
    if (block_bytes(parsed, sizes, elements) == left) return true;
    sizes.coded[field] = 1;
    const std::uint64_t others = block_bytes(parsed, sizes, elements) - 1;
    if (others >= left || left - others >= parsed.layout.plain_bytes(field, elements)) return false;
    sizes.coded[field] = static_cast<std::uint32_t>(left - others);
    return true;
}

/// The sizes of all blocks, which must fill what follows them.
Result read_sizes(Cursor& cursor, std::size_t blob_bytes, ParsedBlob& parsed) {
    const Result at_sizes{Status::size_mismatch, cursor.position()};
    const std::size_t coded = count_coded(parsed);
    const std::uint64_t blocks = (parsed.elements - 1) / parsed.block_elements() + 1;
    // Each block takes a byte at least.
    if (blocks > cursor.remaining()) return {Status::truncated, cursor.position()};
    const std::uint64_t listed = blocks * coded - (coded > 0 ? 1 : 0);
    const std::span<const std::uint8_t> numbers = cursor.take(4 * listed);
    (void)cursor.take(checksum_bytes);
    if (!cursor.ok()) return cursor.result();
    parsed.payload = cursor.position();
    parsed.sizes.resize(static_cast<std::size_t>(blocks));
    parsed.starts.push_back(parsed.payload);
    std::size_t next = 0;
    for (std::size_t b = 0; b < parsed.sizes.size(); ++b) {
        BlockSizes& sizes = parsed.sizes[b];
        const std::size_t elements = parsed.elements_of(b);
        const std::size_t left = blob_bytes - parsed.starts.back();
        for (std::size_t f = 0; f < parsed.layout.width; ++f) {
            if (!is_coded(parsed.fields[f].kind)) continue;
            if (next == listed) {
                if (!find_last_size(parsed, left, f, elements, sizes)) return at_sizes;
                continue;
            }
            sizes.coded[f] =
                support::load_little_endian<std::uint32_t>(numbers.data() + 4 * next++);
            // One content has one form.
            if (sizes.coded[f] >= parsed.layout.plain_bytes(f, elements)) return at_sizes;
        }
        const std::uint64_t size = block_bytes(parsed, sizes, elements);
        if (size > left) return {Status::truncated, blob_bytes};
        parsed.starts.push_back(parsed.starts.back() + static_cast<std::size_t>(size));
    }
    if (parsed.starts.back() != blob_bytes) return {Status::trailing_bytes, parsed.starts.back()};
    return {Status::ok, blob_bytes};
}

Result check_sum(std::span<const std::uint8_t> blob, std::size_t at,
                 std::span<const std::uint8_t> covered) noexcept {
    const auto stored = support::load_little_endian<std::uint32_t>(blob.data() + at);
    return stored == checksum(covered) ? Result{Status::ok, at} : Result{Status::hash_mismatch, at};
}

/// Bytes as they are: head, checksum over all of them, the bytes.
Result parse_plain(Cursor& cursor, std::span<const std::uint8_t> blob, ParsedBlob& parsed,
                   bool verify) {
    const std::size_t head = cursor.position();
    (void)cursor.take(checksum_bytes);
    if (!cursor.ok()) return cursor.result();
    parsed.payload = cursor.position();
    if (cursor.remaining() < parsed.bytes) return {Status::truncated, blob.size()};
    if (cursor.remaining() > parsed.bytes) {
        return {Status::trailing_bytes, parsed.payload + static_cast<std::size_t>(parsed.bytes)};
    }
    if (!verify) return {Status::ok, blob.size()};
    // The head's own checksum goes into that of the bytes, so that no copy of both is needed.
    const std::uint32_t both = checksum(blob.first(head)) ^ checksum(blob.subspan(parsed.payload));
    const auto stored = support::load_little_endian<std::uint32_t>(blob.data() + head);
    return stored == both ? Result{Status::ok, blob.size()} : Result{Status::hash_mismatch, head};
}

}  // namespace

std::uint32_t checksum(std::span<const std::uint8_t> bytes) noexcept {
    return static_cast<std::uint32_t>(hash::xxh3_64(bytes));
}

bool is_blob(std::span<const std::uint8_t> blob) noexcept {
    return blob.size() > magic.size() && std::equal(magic.begin(), magic.end(), blob.begin()) &&
           blob[magic.size()] == format_version;
}

Result parse_start(std::span<const std::uint8_t> blob, ParsedBlob& parsed) {
    if (blob.size() <= magic.size()) return {Status::truncated, blob.size()};
    if (!std::equal(magic.begin(), magic.end(), blob.begin())) return {Status::bad_magic, 0};
    if (blob[magic.size()] != format_version) return {Status::unsupported_version, magic.size()};
    Cursor cursor(blob);
    (void)cursor.take(magic.size() + 1);
    return read_shape(cursor, parsed);
}

Result parse(std::span<const std::uint8_t> blob, ParsedBlob& parsed, bool verify) {
    const Result start = parse_start(blob, parsed);
    if (!start.ok()) return start;
    Cursor cursor(blob);
    (void)cursor.take(start.count);
    if (parsed.form == Form::plain) return parse_plain(cursor, blob, parsed, verify);
    if (parsed.elements == 0) return {Status::bad_header, magic.size() + 1};
    parsed.block_log2 = cursor.byte();
    if (cursor.ok() && (parsed.block_log2 < min_block_log2 || parsed.block_log2 > max_block_log2)) {
        return {Status::bad_header, cursor.position() - 1};
    }
    if (parsed.layout.joins) read_joined(cursor, parsed.layout);
    const std::uint64_t blocks = (parsed.elements - 1) / parsed.block_elements() + 1;
    for (std::size_t f = 0; f < parsed.layout.width; ++f) {
        read_field(cursor, parsed.layout.bits(f), blocks, parsed.fields[f]);
        if (!cursor.ok()) return cursor.result();
    }
    if (parsed.all_constant()) {
        const std::size_t head = cursor.position();
        (void)cursor.take(checksum_bytes);
        if (!cursor.ok()) return cursor.result();
        parsed.payload = cursor.position();
        if (cursor.remaining() != 0) return {Status::trailing_bytes, parsed.payload};
        return verify ? check_sum(blob, head, blob.first(head)) : Result{Status::ok, blob.size()};
    }
    if (const Result r = read_sizes(cursor, blob.size(), parsed); !r.ok()) return r;
    const std::size_t head = parsed.payload - checksum_bytes;
    if (!verify) return {Status::ok, blob.size()};
    return check_sum(blob, head, blob.first(head));
}

Result take_apart(std::span<const std::uint8_t> blob, const ParsedBlob& parsed, std::size_t block,
                  bool verify, std::array<std::span<const std::uint8_t>, max_fields>& parts) {
    if (parsed.sizes.empty()) return {Status::ok, 0};
    const std::size_t start = parsed.starts[block];
    const std::size_t count = parsed.elements_of(block);
    std::size_t at = start + checksum_bytes;
    const auto take = [&](bool covered) {
        for (std::size_t f = 0; f < parsed.layout.width; ++f) {
            const FieldCode& field = parsed.fields[f];
            const std::uint32_t coded = parsed.sizes[block].coded[f];
            if (field.kind == FieldKind::constant || is_covered(field, coded) != covered) continue;
            const std::uint64_t size = coded != 0 ? coded : parsed.layout.plain_bytes(f, count);
            parts[f] = blob.subspan(at, static_cast<std::size_t>(size));
            at += parts[f].size();
        }
    };
    take(true);
    if (at == start + checksum_bytes) {
        at = start;  // nothing is covered
    } else if (verify) {
        const auto covered = blob.subspan(start + checksum_bytes, at - start - checksum_bytes);
        if (const Result r = check_sum(blob, start, covered); !r.ok()) return r;
    }
    take(false);
    return {Status::ok, at};
}

Result verify(std::span<const std::uint8_t> blob) {
    ParsedBlob parsed;
    if (const Result r = parse(blob, parsed, true); !r.ok()) return r;
    for (std::size_t b = 0; b < parsed.sizes.size(); ++b) {
        std::array<std::span<const std::uint8_t>, max_fields> parts;
        if (const Result r = take_apart(blob, parsed, b, true, parts); !r.ok()) return r;
        for (std::size_t f = 0; f < parsed.layout.width; ++f) {
            const std::uint32_t coded = parsed.sizes[b].coded[f];
            if (coded == 0 || !is_sliced(parsed.fields[f].kind)) continue;
            const auto at = static_cast<std::size_t>(parts[f].data() - blob.data());
            if (coded < checksum_bytes) return {Status::truncated, at};
            if (const Result r = check_sum(blob, at, parts[f].subspan(checksum_bytes)); !r.ok()) {
                return r;
            }
        }
    }
    return {Status::ok, blob.size()};
}

Result inspect(std::span<const std::uint8_t> blob, BlobInfo& info) {
    ParsedBlob parsed;
    const Result result = parse(blob, parsed, false);
    if (!result.ok()) return result;
    info.dtype = support::element_types[parsed.type - 1U].name;
    info.shape = std::move(parsed.shape);
    info.bytes = parsed.bytes;
    info.header_bytes = parsed.payload;
    const std::uint64_t block = std::uint64_t{parsed.block_elements()} * parsed.layout.width;
    info.block_bytes = parsed.form == Form::plain ? 1 : std::min(block, parsed.bytes);
    return result;
}

}  // namespace tersor::lossless
