// A block: some ten thousand symbols in the bit-sliced code, decodable alone. docs/format.md has
// the bytes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "huffman/bit_sliced_code.hpp"
#include "huffman/kernels.hpp"

namespace tersor::huffman {

/// How the blocks of a stream are coded.
struct BlockCode {
    BitSlicedCode planes;
    bool pairs = false;  // two symbols below 16 are coded as one, the first in the lower half
};

/// The code of a stream of two or more different symbols: of symbols, or of pairs where that saves
/// enough.
[[nodiscard]] BlockCode choose_block_code(std::span<const std::uint8_t> symbols,
                                          const Histogram& counts);

/// Memory that is kept from block to block.
class Scratch {
public:
    /// At least `size` bytes, aligned to 64; what they hold is lost when they have to grow.
    [[nodiscard]] std::uint8_t* reserve(std::size_t size);

private:
    std::unique_ptr<std::uint8_t[]> memory_;
    std::size_t size_ = 0;
};

/// Memory for encoding blocks.
struct BlockScratch {
    Scratch parts;
    Scratch pairs;
};

/// The block of the symbols; it stands in `scratch` until that is used again.
[[nodiscard]] std::span<const std::uint8_t> encode_block(const EncodeKernels& kernels,
                                                         const BlockCode& code,
                                                         std::span<const std::uint8_t> symbols,
                                                         BlockScratch& scratch);

struct BlockOptions {
    bool verify = true;      // the checksum
    bool streaming = false;  // store past the caches; symbols must be aligned to 64
};

/// Decodes a block of exactly `symbols.size()` symbols; `readable` is how many bytes may be read
/// after it. `count` is the faulty byte.
[[nodiscard]] Result decode_block(const DecodeKernels& kernels, const BlockCode& code,
                                  std::span<const std::uint8_t> block, std::size_t readable,
                                  std::span<std::uint8_t> symbols, const BlockOptions& options,
                                  Scratch& scratch);

}  // namespace tersor::huffman
