#include "csr/kernels.hpp"
#include "dispatch/architecture.hpp"

#if TERSOR_ARM64

#include <arm_neon.h>

#include <cstring>

namespace tersor::csr {
namespace {

constexpr std::size_t width = 16;

/// Bit i says whether byte i of 64 is not 0.
std::uint64_t nonzeros_of_64(const std::uint8_t* codes) noexcept {
    const uint8x16_t bit = {1, 2, 4, 8, 16, 32, 64, 128, 1, 2, 4, 8, 16, 32, 64, 128};
    uint8x16_t bits[4];
    for (std::size_t i = 0; i < 4; ++i) {
        const uint8x16_t v = vld1q_u8(codes + i * width);
        bits[i] = vandq_u8(vtstq_u8(v, v), bit);
    }
    // Three times neighbours are added: eight bits come into one byte.
    const uint8x16_t fours = vpaddq_u8(vpaddq_u8(bits[0], bits[1]), vpaddq_u8(bits[2], bits[3]));
    return vgetq_lane_u64(vreinterpretq_u64_u8(vpaddq_u8(fours, fours)), 0);
}

void nonzero_bitmap(const std::uint8_t* codes, std::size_t size, std::uint64_t* bits) noexcept {
    std::size_t i = 0;
    for (; i + 64 <= size; i += 64) bits[i / 64] = nonzeros_of_64(codes + i);
    if (i < size) {
        std::uint8_t tail[64] = {};
        std::memcpy(tail, codes + i, size - i);
        bits[i / 64] = nonzeros_of_64(tail);
    }
}

FastVerdict validate_fast(const std::uint8_t* codes, const std::uint8_t* gaps, std::size_t size,
                          int index_bits, std::uint64_t sequence_length) noexcept {
    if (size == 0) return {true, 0};
    const uint8x16_t filler_gap = vdupq_n_u8(static_cast<std::uint8_t>((1 << index_bits) - 1));
    uint8x16_t faults = vdupq_n_u8(0);
    std::uint64_t advance = size;
    std::size_t fillers = 0;
    const auto look = [&](const std::uint8_t* some_codes, const std::uint8_t* some_gaps) noexcept {
        const uint8x16_t gap = vld1q_u8(some_gaps);
        const uint8x16_t filler = vceqzq_u8(vld1q_u8(some_codes));
        // A gap is at most the filler's, and a filler's is just that.
        faults = vorrq_u8(faults, vqsubq_u8(gap, filler_gap));
        faults = vorrq_u8(faults, vandq_u8(filler, veorq_u8(gap, filler_gap)));
        advance += vaddlvq_u8(gap);
        fillers += vaddvq_u8(vshrq_n_u8(filler, 7));
    };
    std::size_t i = 0;
    for (; i + width <= size; i += width) look(codes + i, gaps + i);
    if (i < size) {
        std::uint8_t some_codes[width], some_gaps[width] = {};
        std::memset(some_codes, 1, sizeof some_codes);
        std::memcpy(some_codes, codes + i, size - i);
        std::memcpy(some_gaps, gaps + i, size - i);
        look(some_codes, some_gaps);
    }
    return {vmaxvq_u8(faults) == 0 && codes[size - 1] != 0 && advance <= sequence_length,
            size - fillers};
}

}  // namespace

void install(dispatch::Level<Isa::neon>, Kernels& kernels) noexcept {
    kernels.nonzero_bitmap = nonzero_bitmap;
    kernels.validate_fast = validate_fast;
}

}  // namespace tersor::csr

#endif
