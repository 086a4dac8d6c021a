#include <algorithm>

#include "csr/kernels.hpp"

namespace tersor::csr {
namespace {

void nonzero_bitmap(const std::uint8_t* codes, std::size_t size, std::uint64_t* bits) noexcept {
    for (std::size_t start = 0; start < size; start += 64) {
        const std::size_t end = start + 64 < size ? start + 64 : size;
        std::uint64_t word = 0;
        for (std::size_t i = start; i < end; ++i) {
            word |= std::uint64_t{codes[i] != 0} << (i - start);
        }
        bits[start / 64] = word;
    }
}

FastVerdict validate_fast(const std::uint8_t* codes, const std::uint8_t* gaps, std::size_t size,
                          int index_bits, std::uint64_t sequence_length) noexcept {
    if (size == 0) return {true, 0};
    const auto filler_gap = static_cast<std::uint8_t>((1 << index_bits) - 1);
    FastVerdict result;
    std::uint64_t advance = size;
    std::uint8_t faults = 0;
    constexpr std::size_t block = 255;  // as many bytes as a byte can count
    for (std::size_t at = 0; at < size; at += block) {
        const std::size_t end = std::min(at + block, size);
        std::uint8_t nonzeros = 0;
        std::uint32_t gap_sum = 0;
        for (std::size_t i = at; i < end; ++i) {
            const auto filler = static_cast<std::uint8_t>(codes[i] == 0);
            nonzeros = static_cast<std::uint8_t>(nonzeros + 1 - filler);
            gap_sum += gaps[i];
            faults |= static_cast<std::uint8_t>(gaps[i] > filler_gap);
            faults |= static_cast<std::uint8_t>(filler & (gaps[i] != filler_gap));
        }
        result.nonzeros += nonzeros;
        advance += gap_sum;
    }
    result.good = faults == 0 && codes[size - 1] != 0 && advance <= sequence_length;
    return result;
}

}  // namespace

void install(dispatch::Level<Isa::scalar>, Kernels& kernels) noexcept {
    kernels.nonzero_bitmap = nonzero_bitmap;
    kernels.validate_fast = validate_fast;
}

}  // namespace tersor::csr
