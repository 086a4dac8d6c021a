#include <algorithm>
#include <cstring>

#include "huffman/block_parts.hpp"
#include "huffman/plane_block.hpp"
#include "support/aligned_buffer.hpp"
#include "support/little_endian.hpp"
#include "support/varint.hpp"

namespace tersor::huffman {
namespace {

/// Pairs take half the planes but are split on their way out: they are taken where they save as
/// much.
constexpr double pair_gain = 0.99;
constexpr double pair_entropy = 2.0;  // bits; above, one bit lost on a symbol is no longer much
constexpr std::uint8_t pair_alphabet = 16;

/// Writes the planes of `left` symbols, and their suffixes and tail, from the cursor's start on.
void encode_stage(const EncodeKernels& kernels, const Stage& stage, const std::uint8_t* from,
                  std::size_t left, std::uint8_t* planes,
                  const std::array<std::uint8_t*, max_suffixes>& suffixes, std::uint8_t* tail,
                  PlaneCursor& cursor) {
    const auto depth = static_cast<std::size_t>(stage.planes);
    const std::size_t full = left / superblock_symbols;
    const std::size_t remainder = left % superblock_symbols;
    kernels.encode_planes(stage, from, full, all_lanes, planes, suffixes, tail, cursor);
    if (remainder == 0) return;
    std::array<std::uint8_t, superblock_symbols> last{};
    std::memcpy(last.data(), from + full * superblock_symbols, remainder);
    std::array<std::uint8_t, max_stage_bits * plane_bytes> in_places;
    kernels.encode_planes(stage, last.data(), 1, first_lanes(remainder), in_places.data(), suffixes,
                          tail, cursor);
    planes += full * depth * plane_bytes;
    for (std::size_t d = 0; d < depth; ++d) {
        for (std::size_t b = 0; b < remainder_bytes(remainder); ++b) {
            *planes++ = in_places[d * plane_bytes + places[b]];
        }
    }
}

std::span<const std::uint8_t> encode_symbols(const EncodeKernels& kernels,
                                             const BitSlicedCode& code,
                                             std::span<const std::uint8_t> symbols,
                                             Scratch& scratch) {
    const std::size_t n = symbols.size();
    // The head, whose size is known last, ends where the body begins.
    constexpr std::size_t head_room =
        rounded_up(checksum_bytes + (1 + max_suffixes) * max_stages * support::max_varint_bytes,
                   support::cache_line);
    std::size_t body_room = suffix_slack;
    for (const Stage& stage : code.stages) {
        body_room += planes_size(stage, n) + static_cast<std::size_t>(stage.suffixes) * (n / 8 + 1);
    }
    body_room = rounded_up(body_room, support::cache_line);
    const std::size_t suffix_room = rounded_up(n / 8 + suffix_slack, support::cache_line);
    const std::size_t tail_room = rounded_up(n + tail_slack, support::cache_line);
    std::uint8_t* const memory =
        scratch.reserve(head_room + body_room + (max_suffixes - 1) * suffix_room + 2 * tail_room);
    std::uint8_t* const body = memory + head_room;
    // The first suffix stands where it belongs; where the others begin depends on its length.
    std::uint8_t* const later_suffixes = body + body_room;
    std::uint8_t* const tail_memory = later_suffixes + (max_suffixes - 1) * suffix_room;
    const std::array<std::uint8_t*, 2> tails = {tail_memory, tail_memory + tail_room};
    std::vector<std::uint8_t> head(checksum_bytes);
    std::uint8_t* to = body;
    const std::uint8_t* from = symbols.data();
    std::size_t left = n;
    for (std::size_t s = 0; s < code.stages.size(); ++s) {
        const Stage& stage = code.stages[s];
        std::uint8_t* const tail = tails[s % 2];
        std::uint8_t* const planes = to;
        to += planes_size(stage, left);
        const std::array<std::uint8_t*, max_suffixes> suffixes = {to, later_suffixes,
                                                                  later_suffixes + suffix_room};
        PlaneCursor cursor;
        encode_stage(kernels, stage, from, left, planes, suffixes, tail, cursor);
        if (s > 0) support::append_varint(left, head);
        for (std::size_t l = 0; l < static_cast<std::size_t>(stage.suffixes); ++l) {
            if (!stage.like_the_suffix_before(l))
                support::append_varint(cursor.suffix_bits[l], head);
            const std::size_t size = bytes_of(cursor.suffix_bits[l]);
            if (l > 0) std::memcpy(to, suffixes[l], size);
            to += size;
        }
        from = tail;
        left = cursor.tail;
    }
    std::uint8_t* const block = body - head.size();
    const std::span<const std::uint8_t> whole(block, to);
    std::memcpy(block, head.data(), head.size());
    support::store_little_endian(checksum(whole.subspan(checksum_bytes)), block);
    return whole;
}

/// An odd last symbol is joined with a zero.
void join_pairs(const EncodeKernels& kernels, std::span<const std::uint8_t> symbols,
                std::span<std::uint8_t> pairs) noexcept {
    kernels.join_pairs(symbols.data(), symbols.size() / 2, pairs.data());
    if (symbols.size() % 2 != 0) pairs.back() = symbols.back();
}

}  // namespace

BlockCode choose_block_code(std::span<const std::uint8_t> symbols, const Histogram& counts) {
    BlockCode single{.planes = build_bit_sliced_code(counts)};
    if (single.planes.last_symbol >= pair_alphabet || entropy(counts) >= pair_entropy) {
        return single;
    }
    std::vector<std::uint8_t> pairs((symbols.size() + 1) / 2);
    join_pairs(encode_kernels(isa_in_use()), symbols, pairs);
    const Histogram pair_counts = histogram(pairs);
    if (std::count(pair_counts.begin(), pair_counts.end(), 0U) == alphabet_size - 1) return single;
    BlockCode paired{.planes = build_bit_sliced_code(pair_counts), .pairs = true};
    const auto bits = static_cast<double>(coded_bits(paired.planes, pair_counts));
    return bits < pair_gain * static_cast<double>(coded_bits(single.planes, counts)) ? paired
                                                                                     : single;
}

std::span<const std::uint8_t> encode_block(const EncodeKernels& kernels, const BlockCode& code,
                                           std::span<const std::uint8_t> symbols,
                                           BlockScratch& scratch) {
    if (!code.pairs) return encode_symbols(kernels, code.planes, symbols, scratch.parts);
    const std::size_t count = (symbols.size() + 1) / 2;
    const std::span<std::uint8_t> pairs(scratch.pairs.reserve(count), count);
    join_pairs(kernels, symbols, pairs);
    return encode_symbols(kernels, code.planes, pairs, scratch.parts);
}

}  // namespace tersor::huffman
