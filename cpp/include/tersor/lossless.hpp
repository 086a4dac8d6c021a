// A tensor as a blob that decodes to the same bits: exponents are coded, mantissas stay as they
// are.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "tersor/status.hpp"

namespace tersor::lossless {

/// What a blob announces, checked against its length but not decoded.
struct BlobInfo {
    std::string dtype;  // as safetensors names it: "BF16"
    std::vector<std::uint64_t> shape;
    std::uint64_t bytes = 0;         // of the tensor
    std::uint64_t block_bytes = 0;   // decoded together: a range takes the time of whole blocks
    std::uint64_t header_bytes = 0;  // of the blob before its blocks: shape, tables, sizes
};

/// Whether the bytes start like such a blob; says nothing about the rest.
[[nodiscard]] bool is_blob(std::span<const std::uint8_t> blob) noexcept;

/// The most bytes that `encode` needs for a tensor of `bytes` bytes.
[[nodiscard]] std::size_t encode_bound(std::size_t bytes) noexcept;

/// Encodes a tensor, whose bytes are little-endian and row-major, and returns the bytes of its
/// blob: no more than the tensor's, 10 and those of its shape as varints. `blob` must have
/// `encode_bound(bytes.size())`. The same bytes for every instruction set and thread count. Throws
/// std::invalid_argument for an unknown dtype, more than 8 dimensions, or a shape that does not fit
/// the bytes.
[[nodiscard]] std::size_t encode(std::string_view dtype, std::span<const std::uint64_t> shape,
                                 std::span<const std::uint8_t> bytes, std::span<std::uint8_t> blob,
                                 int threads = 1);

/// The same into memory of its own.
[[nodiscard]] std::vector<std::uint8_t> encode(std::string_view dtype,
                                               std::span<const std::uint64_t> shape,
                                               std::span<const std::uint8_t> bytes,
                                               int threads = 1);

/// Reads the head of a blob; `count` is the byte offset of a fault.
[[nodiscard]] Result inspect(std::span<const std::uint8_t> blob, BlobInfo& info);

/// Checks every checksum without decoding; `count` is the byte offset of a fault.
[[nodiscard]] Result verify(std::span<const std::uint8_t> blob);

struct DecodeOptions {
    int threads = 1;
    bool verify = true;  // the checksums
};

/// Decodes the bytes of the tensor from `first` on, both multiples of its element: only the blocks
/// that hold them are read. `bytes` is the caller's, who decides by `inspect` how much memory to
/// give (a few bytes can announce any number of equal elements). size_mismatch where the tensor has
/// no such bytes; `count` is the byte offset of a fault, and otherwise that of bytes written.
[[nodiscard]] Result decode_range(std::span<const std::uint8_t> blob, std::size_t first,
                                  std::span<std::uint8_t> bytes, const DecodeOptions& options = {});

/// Decodes the whole tensor, of exactly `bytes.size()` bytes.
[[nodiscard]] Result decode(std::span<const std::uint8_t> blob, std::span<std::uint8_t> bytes,
                            const DecodeOptions& options = {});

}  // namespace tersor::lossless
