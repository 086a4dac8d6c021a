// The tensor `tersor`, with which every file of the library starts: hashes of all that stands
// beside it, and the small tensors, which an entry of the JSON header would cost more than
// themselves. docs/format.md has the bytes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "tersor/container.hpp"

namespace tersor::container {

/// The name of the index in the JSON header.
inline constexpr std::string_view index_name = "tersor";
inline constexpr std::uint8_t file_version = 1;

/// Tensors of fewer bytes stand inside the index.
inline constexpr std::size_t outside_bytes = 4096;

struct Index {
    std::uint64_t header_hash = 0;      // of the file up to the first tensor
    std::vector<std::uint64_t> hashes;  // of the tensors outside, in the order of the file
    // `offset` counts from the start of the index; that of what is coded is where that begins.
    std::vector<TensorView> members;
    std::vector<std::uint8_t> decoded;  // what members that are coded point to
};

/// Whether the bytes start like an index; says nothing about the rest.
[[nodiscard]] bool starts_like_index(std::span<const std::uint8_t> bytes) noexcept;

/// An index of these members, wide elements first, and hashes; where one of them is a blob with
/// contexts, which not every reader knows, entries and ordinary members are coded too if that is
/// smaller; its size is a multiple of
/// `alignment`, at most 8. What hashes the header and the index itself is zero until `seal_index`.
[[nodiscard]] std::vector<std::uint8_t> encode_index(std::span<const TensorToWrite* const> members,
                                                     std::span<const std::uint64_t> hashes,
                                                     std::size_t alignment);

/// Fills in the hash of the header, which names the size of the index, and that of the index.
void seal_index(std::span<std::uint8_t> index, std::span<const std::uint8_t> header) noexcept;

/// Checks the hash of the index and takes it apart; `outside` tensors stand beside it, and what it
/// lists may take `max_bytes` of memory. `count` is the position of a fault.
[[nodiscard]] Result parse_index(std::span<const std::uint8_t> index, std::size_t outside,
                                 Index& parsed, std::size_t max_bytes = SIZE_MAX);

}  // namespace tersor::container
