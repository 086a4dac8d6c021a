// XXH3, 64 bits, seed 0: the checksum of blobs and tensors. Written from the algorithm's public
// specification (Collet, xxHash); it detects damage, not forgery.
#pragma once

#include <cstdint>
#include <span>

namespace tersor::hash {

[[nodiscard]] std::uint64_t xxh3_64(std::span<const std::uint8_t> bytes) noexcept;

}  // namespace tersor::hash
