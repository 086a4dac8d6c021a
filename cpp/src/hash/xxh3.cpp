#include "hash/xxh3.hpp"

#include <array>
#include <bit>
#include <cstddef>

#include "hash/kernels.hpp"
#include "support/little_endian.hpp"

namespace tersor::hash {
namespace {

// The default secret of the specification.
constexpr std::array<std::uint8_t, 192> secret = {
    0xb8, 0xfe, 0x6c, 0x39, 0x23, 0xa4, 0x4b, 0xbe, 0x7c, 0x01, 0x81, 0x2c, 0xf7, 0x21, 0xad, 0x1c,
    0xde, 0xd4, 0x6d, 0xe9, 0x83, 0x90, 0x97, 0xdb, 0x72, 0x40, 0xa4, 0xa4, 0xb7, 0xb3, 0x67, 0x1f,
    0xcb, 0x79, 0xe6, 0x4e, 0xcc, 0xc0, 0xe5, 0x78, 0x82, 0x5a, 0xd0, 0x7d, 0xcc, 0xff, 0x72, 0x21,
    0xb8, 0x08, 0x46, 0x74, 0xf7, 0x43, 0x24, 0x8e, 0xe0, 0x35, 0x90, 0xe6, 0x81, 0x3a, 0x26, 0x4c,
    0x3c, 0x28, 0x52, 0xbb, 0x91, 0xc3, 0x00, 0xcb, 0x88, 0xd0, 0x65, 0x8b, 0x1b, 0x53, 0x2e, 0xa3,
    0x71, 0x64, 0x48, 0x97, 0xa2, 0x0d, 0xf9, 0x4e, 0x38, 0x19, 0xef, 0x46, 0xa9, 0xde, 0xac, 0xd8,
    0xa8, 0xfa, 0x76, 0x3f, 0xe3, 0x9c, 0x34, 0x3f, 0xf9, 0xdc, 0xbb, 0xc7, 0xc7, 0x0b, 0x4f, 0x1d,
    0x8a, 0x51, 0xe0, 0x4b, 0xcd, 0xb4, 0x59, 0x31, 0xc8, 0x9f, 0x7e, 0xc9, 0xd9, 0x78, 0x73, 0x64,
    0xea, 0xc5, 0xac, 0x83, 0x34, 0xd3, 0xeb, 0xc3, 0xc5, 0x81, 0xa0, 0xff, 0xfa, 0x13, 0x63, 0xeb,
    0x17, 0x0d, 0xdd, 0x51, 0xb7, 0xf0, 0xda, 0x49, 0xd3, 0x16, 0x55, 0x26, 0x29, 0xd4, 0x68, 0x9e,
    0x2b, 0x16, 0xbe, 0x58, 0x7d, 0x47, 0xa1, 0xfc, 0x8f, 0xf8, 0xb8, 0xd1, 0x7a, 0xd0, 0x31, 0xce,
    0x45, 0xcb, 0x3a, 0x8f, 0x95, 0x16, 0x04, 0x28, 0xaf, 0xd7, 0xfb, 0xca, 0xbb, 0x4b, 0x40, 0x7e,
};

constexpr std::uint64_t prime32_2 = 0x85EBCA77, prime32_3 = 0xC2B2AE3D;
constexpr std::uint64_t prime64_1 = 0x9E3779B185EBCA87, prime64_2 = 0xC2B2AE3D27D4EB4F,
                        prime64_3 = 0x165667B19E3779F9, prime64_4 = 0x85EBCA77C2B2AE63,
                        prime64_5 = 0x27D4EB2F165667C5;
constexpr std::uint64_t mix_1 = 0x165667919E3779F9, mix_2 = 0x9FB21C651E98DF25;

std::uint64_t read64(const std::uint8_t* p) noexcept {
    return support::load_little_endian<std::uint64_t>(p);
}

std::uint64_t read32(const std::uint8_t* p) noexcept {
    return support::load_little_endian<std::uint32_t>(p);
}

std::uint64_t secret64(std::size_t offset) noexcept { return read64(secret.data() + offset); }

/// Low xor high half of the 128-bit product.
std::uint64_t multiply_fold(std::uint64_t a, std::uint64_t b) noexcept {
    const std::uint64_t a_low = a & 0xffffffff, a_high = a >> 32;
    const std::uint64_t b_low = b & 0xffffffff, b_high = b >> 32;
    const std::uint64_t low_low = a_low * b_low, high_low = a_high * b_low;
    const std::uint64_t low_high = a_low * b_high, high_high = a_high * b_high;
    const std::uint64_t cross = (low_low >> 32) + (high_low & 0xffffffff) + low_high;
    const std::uint64_t high = (high_low >> 32) + (cross >> 32) + high_high;
    const std::uint64_t low = (cross << 32) | (low_low & 0xffffffff);
    return low ^ high;
}

std::uint64_t byte_swapped(std::uint64_t x) noexcept {
    std::uint64_t swapped = 0;
    for (int i = 0; i < 8; ++i) swapped = (swapped << 8) | ((x >> (8 * i)) & 0xff);
    return swapped;
}

std::uint64_t avalanche(std::uint64_t h) noexcept {
    h ^= h >> 37;
    h *= mix_1;
    return h ^ (h >> 32);
}

/// The final mix of the older XXH64, which the shortest inputs use.
std::uint64_t avalanche_short(std::uint64_t h) noexcept {
    h ^= h >> 33;
    h *= prime64_2;
    h ^= h >> 29;
    h *= prime64_3;
    return h ^ (h >> 32);
}

std::uint64_t mix_16(const std::uint8_t* in, std::size_t secret_offset) noexcept {
    return multiply_fold(read64(in) ^ secret64(secret_offset),
                         read64(in + 8) ^ secret64(secret_offset + 8));
}

std::uint64_t hash_up_to_16(const std::uint8_t* in, std::size_t size) noexcept {
    if (size > 8) {
        const std::uint64_t low = read64(in) ^ secret64(24) ^ secret64(32);
        const std::uint64_t high = read64(in + size - 8) ^ secret64(40) ^ secret64(48);
        return avalanche(size + byte_swapped(low) + high + multiply_fold(low, high));
    }
    if (size >= 4) {
        std::uint64_t h = read32(in + size - 4) + (read32(in) << 32);
        h ^= secret64(8) ^ secret64(16);
        h ^= std::rotl(h, 49) ^ std::rotl(h, 24);
        h *= mix_2;
        h ^= (h >> 35) + size;
        h *= mix_2;
        return h ^ (h >> 28);
    }
    if (size > 0) {
        const std::uint64_t combined = (std::uint64_t{in[0]} << 16) |
                                       (std::uint64_t{in[size / 2]} << 24) | in[size - 1] |
                                       (std::uint64_t{size} << 8);
        return avalanche_short(combined ^ read32(secret.data()) ^ read32(secret.data() + 4));
    }
    return avalanche_short(secret64(56) ^ secret64(64));
}

std::uint64_t hash_up_to_128(const std::uint8_t* in, std::size_t size) noexcept {
    std::uint64_t h = size * prime64_1;
    // Pairs from both ends towards the middle.
    for (std::size_t i = (size - 1) / 32 + 1; i-- > 0;) {
        h += mix_16(in + 16 * i, 32 * i);
        h += mix_16(in + size - 16 * (i + 1), 32 * i + 16);
    }
    return avalanche(h);
}

std::uint64_t hash_up_to_240(const std::uint8_t* in, std::size_t size) noexcept {
    std::uint64_t h = size * prime64_1;
    for (std::size_t i = 0; i < 8; ++i) h += mix_16(in + 16 * i, 16 * i);
    h = avalanche(h);
    for (std::size_t i = 8; i < size / 16; ++i) h += mix_16(in + 16 * i, 16 * (i - 8) + 3);
    h += mix_16(in + size - 16, 136 - 17);
    return avalanche(h);
}

std::uint64_t hash_long(const std::uint8_t* in, std::size_t size) noexcept {
    alignas(64) Accumulators sums = {prime32_3, prime64_1, prime64_2, prime64_3,
                                     prime64_4, prime32_2, prime64_5, prime32_1};
    const Kernels& used = kernels();
    used.accumulate(sums, in, (size - 1) / stripe, secret.data());
    used.accumulate(sums, in + size - stripe, 1, secret.data() + secret.size() - stripe - 7);
    std::uint64_t h = size * prime64_1;
    for (std::size_t i = 0; i < 4; ++i) {
        h += multiply_fold(sums[2 * i] ^ secret64(11 + 16 * i),
                           sums[2 * i + 1] ^ secret64(11 + 16 * i + 8));
    }
    return avalanche(h);
}

}  // namespace

std::uint64_t xxh3_64(std::span<const std::uint8_t> bytes) noexcept {
    if (bytes.size() <= 16) return hash_up_to_16(bytes.data(), bytes.size());
    if (bytes.size() <= 128) return hash_up_to_128(bytes.data(), bytes.size());
    if (bytes.size() <= 240) return hash_up_to_240(bytes.data(), bytes.size());
    return hash_long(bytes.data(), bytes.size());
}

}  // namespace tersor::hash
