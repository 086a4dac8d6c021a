// AVX-512: codebooks in registers. For files that are compiled for the level: include it inside
// their target region.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace tersor::spmm::sell {
namespace {  // NOLINT(google-build-namespaces): compiled anew for each file's target

/// The limbs of a codebook of up to `size` values (64, 128 or 256) in registers.
template <int size>
class CodeTable {
public:
    explicit CodeTable(const std::int8_t* table) noexcept {
        for (int i = 0; i < size / 64; ++i) parts_[i] = _mm512_load_si512(table + 64 * i);
    }

    [[nodiscard]] __m512i operator[](__m512i codes) const noexcept {
        if constexpr (size == 64) return _mm512_permutexvar_epi8(codes, parts_[0]);
        if constexpr (size >= 128) {
            const __m512i low = _mm512_permutex2var_epi8(parts_[0], codes, parts_[1]);
            if constexpr (size == 128) return low;
            const __m512i high =
                _mm512_permutex2var_epi8(parts_[size / 64 - 2], codes, parts_[size / 64 - 1]);
            return _mm512_mask_blend_epi8(_mm512_movepi8_mask(codes), low, high);
        }
    }

private:
    __m512i parts_[size / 64];
};

}  // namespace
}  // namespace tersor::spmm::sell
