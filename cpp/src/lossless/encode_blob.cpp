// Writing a blob: the plan, the head, the blocks; or the bytes as they are where that is smaller.
#include <atomic>
#include <cstring>
#include <mutex>
#include <stdexcept>
#include <string>

#include "huffman/words.hpp"
#include "lossless/blob.hpp"
#include "lossless/encode_plan.hpp"
#include "lossless/kernels.hpp"
#include "support/checked_size.hpp"
#include "support/little_endian.hpp"
#include "support/varint.hpp"
#include "tersor/parallel.hpp"

namespace tersor::lossless {
namespace {

using Bytes = std::span<const std::uint8_t>;
using support::append_varint;

constexpr int block_log2 = encoded_block_log2;
/// Fewer are not worth waking a thread: a block and a bit is what many layers have.
constexpr std::size_t blocks_to_share = 2;
/// Room for a head but for the sizes of blocks, of which each takes less than its block's part.
constexpr std::size_t head_room = 4096;
constexpr std::size_t block_share = 512;

/// What a head may take, and the checksums of blocks.
constexpr std::size_t head_bound(std::size_t bytes) noexcept {
    return bytes / block_share + head_room;
}

void check(bool good, const std::string& message) {
    if (!good) throw std::invalid_argument("lossless: " + message);
}

/// Encodes blocks by one plan; a thread has its own.
class BlockEncoder {
public:
    BlockEncoder(const Plan& plan, Bytes elements) noexcept
        : plan_(plan),
          elements_(elements),
          prefix_(huffman::encode_kernels(isa_in_use())),
          kernels_(encode_kernels(isa_in_use())) {}

    /// Writes a block of `count` elements; returns its bytes, or 0 where the plan does not cover
    /// them.
    std::size_t encode(std::size_t block, std::size_t count, std::uint8_t* out, BlockSizes& sizes) {
        const Layout& layout = plan_.layout;
        const std::uint8_t* from = elements_.data() + (block << block_log2) * layout.width;
        wanted_ = plan_.wanted[block];
        place(count, out + checksum_bytes, nullptr);
        if (!cut(from, count, true)) return 0;
        if (!plan_.covered.empty() && !covers(block, {places_[0], count})) return 0;
        bool moved = false;  // whether plain fields do not stand where they were cut to
        std::array<Bytes, max_fields> coded;
        for (std::size_t f = 0; f < layout.width; ++f) {
            const FieldCode& field = plan_.fields[f];
            if (!is_tried(f)) continue;
            coded[f] = code_field(block, f, {layout.width == 1 ? from : places_[f], count});
            if (coded[f].size() >= layout.plain_bytes(f, count)) coded[f] = {};
            sizes.coded[f] = static_cast<std::uint32_t>(coded[f].size());
            moved |= is_covered(field, sizes.coded[f]);
        }
        if (moved) {
            place(count, out + checksum_bytes, &coded);
            (void)cut(from, count, false);
        }
        return finish(count, out, sizes, coded);
    }

private:
    /// Whether a field of the block that is encoded may gain.
    [[nodiscard]] bool is_tried(std::size_t f) const noexcept {
        return is_coded(plan_.fields[f].kind) && (wanted_ >> f & 1U) != 0;
    }

    /// Where fields go that are stored as they are: from `to` on, in order; others to memory.
    void place(std::size_t count, std::uint8_t* to, const std::array<Bytes, max_fields>* coded) {
        const Layout& layout = plan_.layout;
        for (std::size_t f = 0; f < layout.width; ++f) {
            const FieldCode& field = plan_.fields[f];
            places_[f] = nullptr;
            if (field.kind == FieldKind::constant) continue;
            if (coded == nullptr && is_tried(f)) {
                if (layout.width > 1) places_[f] = planes_[f].reserve(count);
                continue;
            }
            const bool is_plain = coded == nullptr || (*coded)[f].empty();
            if (is_plain) places_[f] = to;
            if (is_plain || field.kind == FieldKind::words) {
                to += is_plain ? layout.plain_bytes(f, count) : (*coded)[f].size();
            }
        }
    }

    /// Whether the block's code has words for all of its symbols in field 0.
    [[nodiscard]] bool covers(std::size_t block, Bytes symbols) const noexcept {
        const auto& codes = plan_.fields[0].codes;
        const auto* code = &plan_.fields[0].code_of(block);
        std::size_t i = 0;
        while (&codes[i].code != code) ++i;
        const Covered covered = plan_.covered[i];
        std::uint8_t before = 255;  // the smallest but 0, less one
        std::uint8_t largest = 0;
        for (const std::uint8_t symbol : symbols) {
            before = std::min(before, static_cast<std::uint8_t>(symbol - 1U));
            largest = std::max(largest, symbol);
        }
        return before + 1 >= covered.from && largest <= covered.to;
    }

    /// Cuts the block: field 1 with joined bits without gaps where it is stored so. False where
    /// exponents leave no room for these.
    bool cut(const std::uint8_t* from, std::size_t count, bool first_time) {
        const Layout& layout = plan_.layout;
        if (layout.width == 1) {
            if (places_[0] != nullptr) std::memcpy(places_[0], from, count);
            return true;
        }
        const bool gapless = !is_tried(1) || !first_time;
        const FieldsOut fields{places_, layout.joined > 0 && gapless};
        return kernels_.cut_fields(layout, from, count, fields);
    }

    Bytes code_field(std::size_t block, std::size_t f, Bytes symbols) {
        const FieldCode& field = plan_.fields[f];
        if (is_sliced(field.kind)) {
            return huffman::encode_block(prefix_, field.code_of(block), symbols, blocks_[f]);
        }
        words_[f].clear();
        huffman::append_words(symbols, field.lengths, words_[f]);
        return words_[f];
    }

    /// Adds what is coded, and the checksum of what has none of its own.
    std::size_t finish(std::size_t count, std::uint8_t* out, const BlockSizes& sizes,
                       const std::array<Bytes, max_fields>& coded) const {
        const Layout& layout = plan_.layout;
        std::uint8_t* to = out + checksum_bytes;
        const auto copy = [&](bool covered) {
            for (std::size_t f = 0; f < layout.width; ++f) {
                const FieldCode& field = plan_.fields[f];
                if (field.kind == FieldKind::constant ||
                    is_covered(field, sizes.coded[f]) != covered) {
                    continue;
                }
                if (coded[f].empty()) {
                    to += layout.plain_bytes(f, count);  // stands there already
                } else {
                    to = std::copy(coded[f].begin(), coded[f].end(), to);
                }
            }
        };
        copy(true);
        const bool covers = to != out + checksum_bytes;
        if (covers) {
            const Bytes covered(out + checksum_bytes, to);
            support::store_little_endian(checksum(covered), out);
        } else {
            to = out;
        }
        copy(false);
        return static_cast<std::size_t>(to - out);
    }

    const Plan& plan_;
    Bytes elements_;
    unsigned wanted_ = 0;
    const huffman::EncodeKernels& prefix_;
    const EncodeKernels& kernels_;
    std::array<std::uint8_t*, max_fields> places_{};
    std::array<huffman::Scratch, max_fields> planes_;
    std::array<huffman::BlockScratch, max_fields> blocks_;
    std::array<std::vector<std::uint8_t>, max_fields> words_;
};

std::vector<std::uint8_t> start_of_head(std::uint8_t type, Form form,
                                        std::span<const std::uint64_t> shape) {
    std::vector<std::uint8_t> head(magic.begin(), magic.end());
    head.push_back(format_version);
    head.push_back(static_cast<std::uint8_t>(type | static_cast<unsigned>(form) << form_shift));
    append_varint(shape.size(), head);
    for (const std::uint64_t dimension : shape) append_varint(dimension, head);
    return head;
}

void append_field(const FieldCode& field, std::vector<std::uint8_t>& head) {
    head.push_back(static_cast<std::uint8_t>(field.kind));
    switch (field.kind) {
        case FieldKind::constant: head.push_back(field.constant); break;
        case FieldKind::plain: break;
        case FieldKind::words: huffman::append_lengths(field.lengths, head); break;
        case FieldKind::sliced:
        case FieldKind::pairs:
            for (std::size_t i = 0; i < field.codes.size(); ++i) {
                const bool last = i + 1 == field.codes.size();
                append_varint(last ? 0 : field.codes[i + 1].first - field.codes[i].first, head);
                huffman::append_bit_sliced_code(field.codes[i].code.planes, head);
            }
            break;
    }
}

std::size_t write_plain(std::uint8_t type, std::span<const std::uint64_t> shape, Bytes bytes,
                        std::uint8_t* out) {
    const std::vector<std::uint8_t> head = start_of_head(type, Form::plain, shape);
    std::uint8_t* to = std::copy(head.begin(), head.end(), out);
    support::store_little_endian(checksum(head) ^ checksum(bytes), to);
    to += checksum_bytes;
    if (!bytes.empty()) std::memcpy(to, bytes.data(), bytes.size());
    return static_cast<std::size_t>(to - out) + bytes.size();
}

/// Blocks that one thread wrote beside each other.
struct Run {
    std::size_t first;
    std::uint8_t* begin;
    std::size_t size;
};

/// Writes the blocks from `out` on; returns where they end, or nullptr where the plan does not
/// cover them.
std::uint8_t* write_blocks(const Plan& plan, Bytes bytes, std::vector<BlockSizes>& sizes,
                           std::uint8_t* out, int threads) {
    const std::size_t elements = bytes.size() / plan.layout.width;
    constexpr std::size_t per_block = std::size_t{1} << block_log2;
    const std::size_t most = per_block * plan.layout.width + checksum_bytes;
    std::atomic<bool> missed = false;
    std::mutex mutex;
    std::vector<Run> runs;
    parallel_for(sizes.size(), blocks_to_share, threads, [&](std::size_t begin, std::size_t end) {
        BlockEncoder encoder(plan, bytes);
        std::uint8_t* const start = out + begin * most;
        std::uint8_t* to = start;
        for (std::size_t b = begin; b < end && !missed.load(std::memory_order_relaxed); ++b) {
            const std::size_t count = std::min(per_block, elements - b * per_block);
            const std::size_t size = encoder.encode(b, count, to, sizes[b]);
            if (size == 0) missed.store(true, std::memory_order_relaxed);
            to += size;
        }
        const std::scoped_lock lock(mutex);
        runs.push_back({begin, start, static_cast<std::size_t>(to - start)});
    });
    if (missed.load()) return nullptr;
    std::sort(runs.begin(), runs.end(),
              [](const Run& a, const Run& b) { return a.first < b.first; });
    for (const Run& run : runs) {
        if (run.begin != out) std::memmove(out, run.begin, run.size);
        out += run.size;
    }
    return out;
}

/// The blob in blocks; its bytes, or 0 where the plan does not cover them.
std::size_t write_coded(std::uint8_t type, std::span<const std::uint64_t> shape, Bytes bytes,
                        const Plan& plan, std::span<std::uint8_t> blob, int threads) {
    const Layout& layout = plan.layout;
    const std::size_t elements = bytes.size() / layout.width;
    std::uint8_t* const out = blob.data();
    std::vector<std::uint8_t> head = start_of_head(type, Form::blocks, shape);
    head.push_back(block_log2);
    if (layout.joins) {
        head.push_back(static_cast<std::uint8_t>(plan.layout.joined));
        if (plan.layout.joined > 0) head.push_back(plan.layout.base);
    }
    std::size_t coded = 0;
    bool all_constant = true;
    for (std::size_t f = 0; f < layout.width; ++f) {
        append_field(plan.fields[f], head);
        coded += is_coded(plan.fields[f].kind) ? 1 : 0;
        all_constant &= plan.fields[f].kind == FieldKind::constant;
    }
    const std::size_t blocks = all_constant ? 0 : ((elements - 1) >> block_log2) + 1;
    const std::size_t listed = blocks * coded - (blocks * coded > 0 ? 1 : 0);
    std::vector<BlockSizes> sizes(blocks);
    std::uint8_t* const payload = out + head.size() + 4 * listed + checksum_bytes;
    // Tables that take more than their share are not worth it.
    const std::size_t beside = blocks * (checksum_bytes + 1);  // checksums, bits that fill bytes
    if (head.size() + 4 * listed + checksum_bytes + beside > head_bound(bytes.size())) {
        return SIZE_MAX;
    }
    const std::uint8_t* const end = write_blocks(plan, bytes, sizes, payload, threads);
    if (end == nullptr) return 0;
    for (const BlockSizes& block : sizes) {
        for (std::size_t f = 0; f < layout.width; ++f) {
            if (!is_coded(plan.fields[f].kind)) continue;
            support::append_little_endian(block.coded[f], head);
        }
    }
    head.resize(static_cast<std::size_t>(payload - out) - checksum_bytes);  // without the last size
    std::copy(head.begin(), head.end(), out);
    support::store_little_endian(checksum(head), payload - checksum_bytes);
    return static_cast<std::size_t>(end - out);
}

}  // namespace

std::size_t encode_bound(std::size_t bytes) noexcept { return bytes + head_bound(bytes); }

std::size_t encode(std::string_view dtype, std::span<const std::uint64_t> shape, Bytes bytes,
                   std::span<std::uint8_t> blob, int threads) {
    static_cast<void>(isa_in_use());  // a wrong level is told here: hashing does not throw
    const std::uint8_t type = support::element_code(dtype);
    check(type != 0, "unknown dtype '" + std::string(dtype) + "'");
    check(shape.size() <= max_dimensions, "more than 8 dimensions");
    std::uint64_t expected = support::element_types[type - 1U].bytes;
    for (const std::uint64_t dimension : shape) {
        check(support::multiply_size(expected, dimension), "the shape is too large");
    }
    check(expected == bytes.size(), "the shape does not fit the number of bytes");
    check(blob.size() >= encode_bound(bytes.size()), "no room for the blob: see encode_bound");
    if (!bytes.empty()) {
        const Layout layout = layout_of(type);
        const auto write = [&](bool exact) {
            const std::size_t elements = bytes.size() / layout.width;
            const Plan plan = plan_fields(layout, bytes.data(), elements, exact, threads);
            return write_coded(type, shape, bytes, plan, blob, threads);
        };
        std::size_t size = write(false);
        if (size == 0) size = write(true);
        std::size_t plain = magic.size() + 2 + checksum_bytes + bytes.size();
        std::vector<std::uint8_t> numbers;
        append_varint(shape.size(), numbers);
        for (const std::uint64_t dimension : shape) append_varint(dimension, numbers);
        plain += numbers.size();
        if (size < plain) return size;
    }
    return write_plain(type, shape, bytes, blob.data());
}

std::vector<std::uint8_t> encode(std::string_view dtype, std::span<const std::uint64_t> shape,
                                 Bytes bytes, int threads) {
    std::vector<std::uint8_t> blob(encode_bound(bytes.size()));
    blob.resize(encode(dtype, shape, bytes, blob, threads));
    return blob;
}

}  // namespace tersor::lossless
