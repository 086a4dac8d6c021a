#include <algorithm>
#include <bit>

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

using support::append_varint;

/// From here on the bit-sliced code, whose speed is worth its headers, is taken.
constexpr std::size_t planes_from = 16384;
/// Symbols of a block, as a power of two: decoded, it stays in a second-level cache.
constexpr int block_log2 = 17;

int stored_width(std::uint8_t largest) noexcept {
    return std::max(1, static_cast<int>(std::bit_width(largest)));
}

std::vector<std::uint8_t> stored_body(std::span<const std::uint8_t> symbols, int width) {
    std::vector<std::uint8_t> body{static_cast<std::uint8_t>(StreamKind::stored),
                                   static_cast<std::uint8_t>(width)};
    append_fields(symbols, width, body);
    return body;
}

std::vector<std::uint8_t> words_body(std::span<const std::uint8_t> symbols,
                                     const Histogram& counts) {
    const CodeLengths lengths = code_lengths(counts, max_stream_length);
    std::vector<std::uint8_t> body{static_cast<std::uint8_t>(StreamKind::words)};
    append_lengths(lengths, body);
    append_words(symbols, lengths, body);
    return body;
}

/// Blocks that are coded alike, beside each other.
std::vector<std::uint8_t> blocks_body(const BlockCode& code, std::span<const std::uint8_t> symbols,
                                      int threads) {
    constexpr std::size_t per_block = std::size_t{1} << block_log2;
    const EncodeKernels& used = encode_kernels(isa_in_use());
    const std::size_t count = (symbols.size() + per_block - 1) / per_block;
    std::vector<std::vector<std::uint8_t>> blocks(count);
    parallel_for(count, 1, threads, [&](std::size_t begin, std::size_t end) {
        BlockScratch scratch;
        for (std::size_t b = begin; b < end; ++b) {
            const std::size_t size = std::min(per_block, symbols.size() - b * per_block);
            const auto block =
                encode_block(used, code, symbols.subspan(b * per_block, size), scratch);
            blocks[b].assign(block.begin(), block.end());
        }
    });
    const StreamKind kind = code.pairs ? StreamKind::pairs : StreamKind::planes;
    std::vector<std::uint8_t> body{static_cast<std::uint8_t>(kind),
                                   static_cast<std::uint8_t>(block_log2)};
    append_bit_sliced_code(code.planes, body);
    std::size_t total = body.size();
    for (const auto& block : blocks) total += block.size() + 4;
    body.reserve(total);
    for (const auto& block : blocks) append_varint(block.size(), body);
    for (const auto& block : blocks) body.insert(body.end(), block.begin(), block.end());
    return body;
}

}  // namespace

Histogram histogram(std::span<const std::uint8_t> symbols) {
    Histogram total{};
    encode_kernels(isa_in_use()).count_symbols(symbols.data(), symbols.size(), total.data());
    return total;
}

std::vector<std::uint8_t> encode(std::span<const std::uint8_t> symbols, int threads) {
    std::vector<std::uint8_t> stream;
    append_varint(symbols.size(), stream);
    if (symbols.empty()) return stream;
    const Histogram counts = histogram(symbols);
    std::size_t distinct = 0;
    std::uint8_t largest = 0;
    for (std::size_t s = 0; s < alphabet_size; ++s) {
        if (counts[s] == 0) continue;
        ++distinct;
        largest = static_cast<std::uint8_t>(s);
    }
    std::vector<std::uint8_t> body;
    if (distinct == 1) {
        body = {static_cast<std::uint8_t>(StreamKind::constant), symbols[0]};
    } else if (symbols.size() >= planes_from) {
        body = blocks_body(choose_block_code(symbols, counts), symbols, threads);
    } else {
        body = words_body(symbols, counts);
        const int width = stored_width(largest);
        const std::uint64_t stored_bytes = 2 + fields_size(symbols.size(), width);
        if (stored_bytes <= body.size()) body = stored_body(symbols, width);
    }
    stream.insert(stream.end(), body.begin(), body.end());
    return stream;
}

}  // namespace tersor::huffman
