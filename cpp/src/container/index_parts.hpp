// What the writer and the reader of an index agree on; docs/format.md has the bytes.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

namespace tersor::container {

inline constexpr std::array<std::uint8_t, 4> index_magic = {'T', 'E', 'R', 'S'};
inline constexpr std::size_t header_hash_at = index_magic.size() + 1;
inline constexpr std::size_t hash_bytes = 8;
inline constexpr std::uint64_t minor_version = 0;
/// Entries and ordinary tensors are coded adaptively; blobs stand as they are.
inline constexpr std::uint64_t coded_feature = 1;
inline constexpr std::uint64_t known_features = coded_feature;
inline constexpr std::size_t max_padding = 7;
/// A name's two lengths, a type and a size take a byte each at least.
inline constexpr std::size_t min_entry_bytes = 4;
/// Names repeat the one before from its start on: all names together take no more than this many
/// times the bytes of the index, and these.
inline constexpr std::size_t max_name_expansion = 64;
inline constexpr std::size_t names_believed = std::size_t{1} << 20;
/// What is coded takes no more than this many times the bytes of the index, and these.
inline constexpr std::size_t max_coded_expansion = 256;
inline constexpr std::size_t coded_believed = std::size_t{1} << 20;
/// The type of a blob, whose name stands without its suffix; others are codes of element types.
inline constexpr std::uint8_t blob_type = 0;

/// To a multiple of a power of two, as the sizes of all elements are.
[[nodiscard]] constexpr std::size_t round_up(std::size_t size, std::size_t alignment) noexcept {
    return (size + alignment - 1) & ~(alignment - 1);
}

}  // namespace tersor::container
