#include <algorithm>
#include <cstring>

#include "huffman/block_parts.hpp"
#include "huffman/plane_block.hpp"
#include "support/aligned_buffer.hpp"
#include "support/little_endian.hpp"
#include "support/prefetch.hpp"
#include "support/varint.hpp"

namespace tersor::huffman {
namespace {

/// Bytes of the stages after the first that are fetched before any is decoded.
constexpr std::size_t later_stages_ahead = 8192;

/// Where the parts of a stage of a block are.
struct StageParts {
    std::size_t symbols = 0;
    std::array<std::uint64_t, max_suffixes> suffix_bits{};
    const std::uint8_t* planes = nullptr;
    std::array<const std::uint8_t*, max_suffixes> suffixes{};
};

/// Whether the bits after the first `bits` of the last of their bytes are zero.
bool padding_is_zero(const std::uint8_t* bytes, std::uint64_t bits) noexcept {
    return bits % 8 == 0 || bytes[bits / 8] >> (bits % 8) == 0;
}

/// The last superblock of a stage, as far as it is used: the bytes of its planes stand in the order
/// of the symbols. False where a bit after them is set.
bool read_remainder(const std::uint8_t* from, std::size_t depth, std::size_t symbols,
                    std::uint8_t* planes) noexcept {
    for (std::size_t d = 0; d < depth; ++d, from += remainder_bytes(symbols)) {
        for (std::size_t b = 0; b < remainder_bytes(symbols); ++b) {
            planes[d * plane_bytes + places[b]] = from[b];
        }
        if (!padding_is_zero(from, symbols)) return false;
    }
    return true;
}

/// Splits pairs; an odd last symbol was joined with a zero.
bool split_pairs(const std::uint8_t* pairs, std::span<std::uint8_t> symbols) noexcept {
    for (std::size_t i = 0; i < symbols.size(); ++i) {
        symbols[i] = i % 2 == 0 ? pairs[i / 2] & 15 : pairs[i / 2] >> 4;
    }
    return symbols.size() % 2 == 0 || pairs[symbols.size() / 2] >> 4 == 0;
}

/// `symbols` has an element for each symbol of the stage, or two for each pair; for the last one of
/// these it may have but one.
bool decode_stage(const DecodeKernels& kernels, const Stage& stage, const StageParts& parts,
                  const std::uint8_t* tail, std::size_t tail_symbols,
                  std::span<std::uint8_t> symbols, Output output) noexcept {
    const std::size_t superblock = output.pairs ? 2 * superblock_symbols : superblock_symbols;
    const std::size_t full = symbols.size() / superblock;
    const std::size_t remainder = parts.symbols - full * superblock_symbols;
    const auto depth = static_cast<std::size_t>(stage.planes);
    const PlaneCursor end{parts.suffix_bits, tail_symbols};
    PlaneCursor cursor;
    if (!kernels.decode_planes(stage, parts.planes, full, all_lanes, parts.suffixes, tail, end,
                               cursor, symbols.data(), output)) {
        return false;
    }
    if (remainder > 0) {
        std::array<std::uint8_t, max_stage_bits * plane_bytes> in_places{};
        const std::uint8_t* planes = parts.planes + full * depth * plane_bytes;
        // Whole where all that is missing is the second half of its last pair.
        if (remainder < superblock_symbols) {
            if (!read_remainder(planes, depth, remainder, in_places.data())) return false;
            planes = in_places.data();
        }
        alignas(64) std::array<std::uint8_t, superblock_symbols> last;
        if (!kernels.decode_planes(stage, planes, 1, first_lanes(remainder), parts.suffixes, tail,
                                   end, cursor, last.data(), {})) {
            return false;
        }
        const std::span<std::uint8_t> to = symbols.subspan(full * superblock);
        if (!output.pairs) {
            std::memcpy(to.data(), last.data(), remainder);
        } else if (!split_pairs(last.data(), to)) {
            return false;
        }
    }
    for (std::size_t l = 0; l < static_cast<std::size_t>(stage.suffixes); ++l) {
        if (!padding_is_zero(parts.suffixes[l], parts.suffix_bits[l])) return false;
    }
    return cursor.suffix_bits == end.suffix_bits && cursor.tail == end.tail;
}

}  // namespace

std::uint8_t* Scratch::reserve(std::size_t size) {
    const std::size_t needed = size + support::cache_line;
    if (needed > size_) {
        memory_.reset();
        memory_ = std::make_unique_for_overwrite<std::uint8_t[]>(needed);
        size_ = needed;
    }
    void* start = memory_.get();
    std::size_t space = size_;
    return static_cast<std::uint8_t*>(std::align(support::cache_line, size, start, space));
}

namespace {

using AllParts = std::array<StageParts, max_stages>;

/// How many symbols each stage has, and bits each suffix.
bool read_counts(const BitSlicedCode& code, std::size_t words, support::Cursor& cursor,
                 AllParts& parts) {
    for (std::size_t s = 0; s < code.stages.size(); ++s) {
        const std::uint64_t count = s == 0 ? words : cursor.varint();
        const std::uint64_t most = s == 0 ? count : parts[s - 1].symbols;
        if (cursor.ok() && count > most) cursor.fail(Status::size_mismatch);
        const Stage& stage = code.stages[s];
        for (std::size_t l = 0; cursor.ok() && l < static_cast<std::size_t>(stage.suffixes); ++l) {
            auto& suffix_bits = parts[s].suffix_bits;
            suffix_bits[l] = stage.like_the_suffix_before(l) ? suffix_bits[l - 1] : cursor.varint();
            if (cursor.ok() && suffix_bits[l] > (l == 0 ? count : suffix_bits[l - 1])) {
                cursor.fail(Status::size_mismatch);
            }
        }
        if (!cursor.ok()) return false;
        parts[s].symbols = static_cast<std::size_t>(count);
    }
    return true;
}

/// Where the planes and suffixes of each stage are. Suffixes that end too near the end of what may
/// be read are decoded from a copy: `copied` is its size.
bool find_parts(const BitSlicedCode& code, std::size_t readable, support::Cursor& cursor,
                AllParts& parts, std::size_t& copied) {
    copied = 0;
    for (std::size_t s = 0; s < code.stages.size(); ++s) {
        const Stage& stage = code.stages[s];
        parts[s].planes = cursor.take(planes_size(stage, parts[s].symbols)).data();
        for (std::size_t l = 0; l < static_cast<std::size_t>(stage.suffixes); ++l) {
            const std::size_t size = bytes_of(parts[s].suffix_bits[l]);
            parts[s].suffixes[l] = cursor.take(size).data();
            if (cursor.remaining() + readable < suffix_slack) copied += size + suffix_slack;
        }
        if (!cursor.ok()) return false;
    }
    if (cursor.remaining() != 0) cursor.fail(Status::trailing_bytes);
    return cursor.ok();
}

/// Copies suffixes that end nearer to `limit` than kernels read past them; returns the memory left.
std::uint8_t* copy_suffixes(const Stage& stage, const std::uint8_t* limit, std::uint8_t* memory,
                            StageParts& parts) noexcept {
    for (std::size_t l = 0; l < static_cast<std::size_t>(stage.suffixes); ++l) {
        const std::size_t size = bytes_of(parts.suffix_bits[l]);
        const auto after = static_cast<std::size_t>(limit - (parts.suffixes[l] + size));
        if (after >= suffix_slack) continue;
        std::memcpy(memory, parts.suffixes[l], size);
        parts.suffixes[l] = memory;
        memory += size + suffix_slack;
    }
    return memory;
}

}  // namespace

Result decode_block(const DecodeKernels& kernels, const BlockCode& code,
                    std::span<const std::uint8_t> block, std::size_t readable,
                    std::span<std::uint8_t> symbols, const BlockOptions& options,
                    Scratch& scratch) {
    support::Cursor cursor(block);
    const std::span<const std::uint8_t> sum = cursor.take(checksum_bytes);
    if (!cursor.ok()) return cursor.result();
    if (options.verify && support::load_little_endian<std::uint32_t>(sum.data()) !=
                              checksum(cursor.remaining_bytes())) {
        return {Status::hash_mismatch, 0};
    }
    const std::size_t words = code.pairs ? (symbols.size() + 1) / 2 : symbols.size();
    const std::size_t stages = code.planes.stages.size();
    AllParts parts;
    std::size_t copied = 0;
    if (!read_counts(code.planes, words, cursor, parts) ||
        !find_parts(code.planes, readable, cursor, parts, copied)) {
        return cursor.result();
    }
    std::size_t needed = 0;
    for (std::size_t s = 1; s < stages; ++s) {
        needed += rounded_up(parts[s].symbols + tail_slack, support::cache_line);
    }

    // The later stages are decoded first, each from where the processor does not expect it.
    if (stages > 1) {
        const std::uint8_t* const later = parts[1].planes;
        const auto size = static_cast<std::size_t>(block.data() + block.size() - later);
        support::prefetch(later, std::min(size, later_stages_ahead));
    }

    std::uint8_t* memory = scratch.reserve(needed + copied + tail_slack);
    const std::uint8_t* const limit = block.data() + block.size() + readable;
    const std::uint8_t* tail = memory;  // nothing is read from it before a stage has filled it
    std::size_t tail_symbols = 0;
    for (std::size_t s = stages; s-- > 0;) {
        const Stage& stage = code.planes.stages[s];
        memory = copy_suffixes(stage, limit, memory, parts[s]);
        const bool first = s == 0;
        const std::span<std::uint8_t> to = first ? symbols : std::span(memory, parts[s].symbols);
        const Output output = first ? Output{options.streaming, code.pairs} : Output{};
        if (!decode_stage(kernels, stage, parts[s], tail, tail_symbols, to, output)) {
            return {Status::bad_code_word,
                    static_cast<std::size_t>(parts[s].planes - block.data())};
        }
        if (first) break;
        tail = to.data();
        tail_symbols = parts[s].symbols;
        memory += rounded_up(tail_symbols + tail_slack, support::cache_line);
    }
    return {Status::ok, block.size()};
}

}  // namespace tersor::huffman
