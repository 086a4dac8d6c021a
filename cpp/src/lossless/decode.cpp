// Decoding: block by block, on several threads. The coded fields of a block are decoded into memory
// that stays in the second cache, and joined from there with what is stored as it is in one pass
// that writes finished elements. Bound by memory for large tensors.
#include <cstring>

#include "huffman/words.hpp"
#include "lossless/blob.hpp"
#include "lossless/kernels.hpp"
#include "support/little_endian.hpp"
#include "support/scratch.hpp"
#include "tersor/parallel.hpp"

namespace tersor::lossless {
namespace {

using Bytes = std::span<const std::uint8_t>;

/// Decoded tensors of this size and more are stored past the caches.
constexpr std::size_t streaming_from = std::size_t{1} << 22;

/// Decodes blocks of one blob; a thread has its own.
class BlockDecoder {
public:
    BlockDecoder(Bytes blob, const ParsedBlob& parsed, bool verify,
                 const huffman::DecodeTable* tables)
        : blob_(blob),
          parsed_(parsed),
          verify_(verify),
          tables_(tables),
          prefix_(huffman::decode_kernels(isa_in_use())),
          kernels_(decode_kernels(isa_in_use())) {}

    /// Decodes a whole block; `elements` has its bytes.
    [[nodiscard]] Result decode(std::size_t block, std::span<std::uint8_t> elements,
                                bool streaming) {
        const std::size_t count = parsed_.elements_of(block);
        const Layout& layout = parsed_.layout;
        std::array<Bytes, max_fields> parts;
        if (const Result r = take_apart(blob_, parsed_, block, verify_, parts); !r.ok()) return r;
        const bool single = layout.width == 1;
        std::uint8_t* memory =
            single ? nullptr : planes_.reserve(layout.width * plane_bytes(count));
        Fields fields;
        for (std::size_t f = 0; f < layout.width; ++f) {
            const FieldCode& field = parsed_.fields[f];
            const std::uint32_t coded = coded_size(block, f);
            if (!single && field.kind != FieldKind::constant && coded == 0) {
                fields.bytes[f] = parts[f].data();
                fields.packed |= f == 1 && layout.joined > 0;
                continue;
            }
            const std::span<std::uint8_t> plane =
                single ? elements : std::span(memory + f * plane_bytes(count), count);
            fields.bytes[f] = plane.data();
            if (const Result r =
                    decode_field(block, f, parts[f], coded, plane, streaming && single);
                !r.ok()) {
                return r;
            }
        }
        if (!single) kernels_.join_fields(layout, fields, count, elements.data(), streaming);
        return {Status::ok, count};
    }

private:
    static std::size_t plane_bytes(std::size_t count) noexcept {
        return (count + support::cache_line - 1) / support::cache_line * support::cache_line;
    }
    [[nodiscard]] std::uint32_t coded_size(std::size_t block, std::size_t field) const noexcept {
        return parsed_.sizes.empty() ? 0 : parsed_.sizes[block].coded[field];
    }

    [[nodiscard]] Result decode_field(std::size_t block, std::size_t f, Bytes part,
                                      std::uint32_t coded, std::span<std::uint8_t> plane,
                                      bool streaming) {
        const FieldCode& field = parsed_.fields[f];
        if (field.kind == FieldKind::constant) {
            std::memset(plane.data(), field.constant, plane.size());
            return {Status::ok, 0};
        }
        if (coded == 0) {
            std::memcpy(plane.data(), part.data(), part.size());
            return {Status::ok, 0};
        }
        const auto offset = static_cast<std::size_t>(part.data() - blob_.data());
        Result result;
        if (field.kind == FieldKind::words) {
            result = huffman::decode_words(part, tables_[f], plane);
        } else {
            const huffman::BlockOptions options{.verify = verify_, .streaming = streaming};
            result =
                huffman::decode_block(prefix_, field.code_of(block), part,
                                      blob_.size() - offset - part.size(), plane, options, stages_);
        }
        result.count += offset;
        return result;
    }

    Bytes blob_;
    const ParsedBlob& parsed_;
    bool verify_;
    const huffman::DecodeTable* tables_;
    const huffman::DecodeKernels& prefix_;
    const DecodeKernels& kernels_;
    huffman::Scratch stages_;
    huffman::Scratch planes_;
};

/// The tables of the fields that are stored in words, by field.
std::vector<huffman::DecodeTable> word_tables(const ParsedBlob& parsed) {
    std::vector<huffman::DecodeTable> tables;
    for (std::size_t f = 0; f < parsed.layout.width; ++f) {
        if (parsed.fields[f].kind != FieldKind::words) continue;
        tables.resize(f + 1);
        huffman::build_table(parsed.fields[f].lengths, tables[f]);
    }
    return tables;
}

bool is_aligned(const void* memory) noexcept {
    return reinterpret_cast<std::uintptr_t>(memory) % support::cache_line == 0;
}

Result decode_blocks(Bytes blob, const ParsedBlob& parsed, std::size_t first,
                     std::span<std::uint8_t> bytes, const DecodeOptions& options) {
    const std::size_t block_bytes = parsed.block_elements() * parsed.layout.width;
    const std::size_t first_block = first / block_bytes;
    const std::size_t blocks = (first + bytes.size() - 1) / block_bytes + 1 - first_block;
    const std::vector<huffman::DecodeTable> tables = word_tables(parsed);
    const bool streaming =
        bytes.size() >= streaming_from && first % block_bytes == 0 && is_aligned(bytes.data());
    std::vector<Result> results(blocks);
    parallel_for(blocks, 1, options.threads, [&](std::size_t begin, std::size_t end) {
        BlockDecoder decoder(blob, parsed, options.verify, tables.data());
        huffman::Scratch partial;
        for (std::size_t i = begin; i < end; ++i) {
            const std::size_t block = first_block + i;
            const std::size_t from = block * block_bytes;
            const std::size_t size = parsed.elements_of(block) * parsed.layout.width;
            if (from >= first && from + size <= first + bytes.size()) {
                results[i] = decoder.decode(block, bytes.subspan(from - first, size), streaming);
                continue;
            }
            const std::span<std::uint8_t> whole(partial.reserve(size), size);
            results[i] = decoder.decode(block, whole, false);
            if (!results[i].ok()) continue;
            const std::size_t begin_at = std::max(from, first);
            const std::size_t end_at = std::min(from + size, first + bytes.size());
            std::memcpy(bytes.data() + (begin_at - first), whole.data() + (begin_at - from),
                        end_at - begin_at);
        }
    });
    for (const Result& result : results) {
        if (!result.ok()) return result;
    }
    return {Status::ok, bytes.size()};
}

}  // namespace

Result decode_range(Bytes blob, std::size_t first, std::span<std::uint8_t> bytes,
                    const DecodeOptions& options) {
    static_cast<void>(isa_in_use());  // a wrong level is told here: hashing does not throw
    ParsedBlob parsed;
    if (const Result r = parse(blob, parsed, options.verify); !r.ok()) return r;
    const std::size_t width = support::element_types[parsed.type - 1U].bytes;
    if (first > parsed.bytes || bytes.size() > parsed.bytes - first || first % width != 0 ||
        bytes.size() % width != 0) {
        return {Status::size_mismatch, 0};
    }
    if (bytes.empty()) return {Status::ok, 0};
    if (parsed.form == Form::blocks) return decode_blocks(blob, parsed, first, bytes, options);
    std::memcpy(bytes.data(), blob.data() + parsed.payload + first, bytes.size());
    return {Status::ok, bytes.size()};
}

Result decode(Bytes blob, std::span<std::uint8_t> bytes, const DecodeOptions& options) {
    ParsedBlob start;
    if (const Result r = parse_start(blob, start); !r.ok()) return r;
    if (start.bytes != bytes.size()) return {Status::size_mismatch, 0};
    return decode_range(blob, 0, bytes, options);
}

}  // namespace tersor::lossless
