// Cutting elements, 32 at a time: the inverse of fields_avx2.cpp.
#include <cstring>

#include "dispatch/architecture.hpp"
#include "lossless/element.hpp"
#include "lossless/kernels.hpp"

#if TERSOR_X86

#include <immintrin.h>

#include "dispatch/target_avx2.hpp"

namespace tersor::lossless {
namespace {

constexpr std::size_t step = 32;

void put(std::uint8_t* to, __m256i bytes) noexcept {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), bytes);
}

/// Puts the bits of 32 elements together; up to two bytes behind them are overwritten.
void pack(__m256i bytes, std::size_t bits, std::uint8_t* to) noexcept {
    const std::uint64_t kept = 0x0101010101010101ULL * ((1U << bits) - 1);
    alignas(32) std::uint64_t spread[4];
    _mm256_store_si256(reinterpret_cast<__m256i*>(spread), bytes);
    for (std::size_t q = 0; q < 4; ++q) {
        const std::uint64_t packed = _pext_u64(spread[q], kept);
        std::memcpy(to + q * bits, &packed, 8);
    }
}

template <class T, Transform transform>
__m256i number_of(__m256i x, __m256i base) noexcept {
    if constexpr (sizeof(T) == 2) {
        const __m256i twice = _mm256_slli_epi16(x, 1);
        if constexpr (transform == Transform::rotate) {
            x = _mm256_or_si256(twice, _mm256_srli_epi16(x, 15));
        }
        if constexpr (transform == Transform::fold) {
            x = _mm256_xor_si256(twice, _mm256_srai_epi16(x, 15));
        }
        return _mm256_sub_epi16(x, base);
    } else {
        const __m256i twice = _mm256_slli_epi32(x, 1);
        if constexpr (transform == Transform::rotate) {
            x = _mm256_or_si256(twice, _mm256_srli_epi32(x, 31));
        }
        if constexpr (transform == Transform::fold) {
            x = _mm256_xor_si256(twice, _mm256_srai_epi32(x, 31));
        }
        return _mm256_sub_epi32(x, base);
    }
}

/// Cuts runs of 32 elements; returns how many elements that were. `seen` collects their bits.
template <class T, Transform transform>
std::size_t cut(const Layout& layout, const std::uint8_t* elements, std::size_t count,
                const FieldsOut& fields, T& seen_bits) noexcept {
    constexpr int vectors = sizeof(T);  // of 32 elements
    const __m256i base = sizeof(T) == 2 ? _mm256_set1_epi16(static_cast<short>(base_of<T>(layout)))
                                        : _mm256_set1_epi32(static_cast<int>(base_of<T>(layout)));
    const auto bits = static_cast<std::size_t>(layout.bits(1));
    const __m128i joined = _mm_cvtsi32_si128(layout.joined);
    const __m256i second_mask = _mm256_set1_epi16(static_cast<short>((1 << bits) - 1));
    const __m256i byte_mask = _mm256_set1_epi16(255);
    const __m256i doubles = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    const auto narrow = [&](__m256i low, __m256i high) noexcept {
        const __m256i bytes = _mm256_packus_epi16(low, high);
        return sizeof(T) == 2 ? _mm256_permute4x64_epi64(bytes, 0xd8)
                              : _mm256_permutevar8x32_epi32(bytes, doubles);
    };
    __m256i seen = _mm256_setzero_si256();
    std::uint8_t* second = fields.bytes[1];
    std::size_t i = 0;
    for (; i + step + (fields.packed ? 8 : 0) <= count; i += step) {
        __m256i y[vectors];
#pragma GCC unroll 4
        for (int v = 0; v < vectors; ++v) {
            const auto* from = elements + i * sizeof(T) + 32 * static_cast<std::size_t>(v);
            y[v] = number_of<T, transform>(
                _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)), base);
            seen = _mm256_or_si256(seen, y[v]);
        }
        __m256i low = y[0];
        __m256i high = y[1];  // the upper words
        if constexpr (sizeof(T) == 4) {
            low = _mm256_packus_epi32(_mm256_srli_epi32(y[0], 16), _mm256_srli_epi32(y[1], 16));
            high = _mm256_packus_epi32(_mm256_srli_epi32(y[2], 16), _mm256_srli_epi32(y[3], 16));
            const __m256i words = _mm256_set1_epi32(0xffff);
            const __m256i a =
                _mm256_packus_epi32(_mm256_and_si256(y[0], words), _mm256_and_si256(y[1], words));
            const __m256i b =
                _mm256_packus_epi32(_mm256_and_si256(y[2], words), _mm256_and_si256(y[3], words));
            if (fields.bytes[2] != nullptr) {
                put(fields.bytes[2] + i, narrow(_mm256_srli_epi16(a, 8), _mm256_srli_epi16(b, 8)));
            }
            if (fields.bytes[3] != nullptr) {
                put(fields.bytes[3] + i,
                    narrow(_mm256_and_si256(a, byte_mask), _mm256_and_si256(b, byte_mask)));
            }
        }
        if (fields.bytes[0] != nullptr) {
            put(fields.bytes[0] + i, narrow(_mm256_srli_epi16(_mm256_sll_epi16(low, joined), 8),
                                            _mm256_srli_epi16(_mm256_sll_epi16(high, joined), 8)));
        }
        if (second != nullptr) {
            const __m256i bytes =
                narrow(_mm256_and_si256(low, second_mask), _mm256_and_si256(high, second_mask));
            if (fields.packed) {
                pack(bytes, bits, second);
                second += 4 * bits;
            } else {
                put(second, bytes);
                second += step;
            }
        }
    }
    alignas(32) T lanes[32 / sizeof(T)];
    _mm256_store_si256(reinterpret_cast<__m256i*>(lanes), seen);
    for (const T lane : lanes) seen_bits = static_cast<T>(seen_bits | lane);
    return i;
}

bool cut_fields(const Layout& layout, const std::uint8_t* elements, std::size_t count,
                const FieldsOut& fields) noexcept {
    bool fits = true;
    const std::size_t whole = with_layout(layout, [&]<class T, Transform transform>() noexcept {
        if constexpr (sizeof(T) <= 4) {
            T seen = 0;
            const std::size_t done = cut<T, transform>(layout, elements, count, fields, seen);
            fits = layout.joined == 0 || seen >> (bits_of<T> - layout.joined) == 0;
            return done;
        } else {
            return std::size_t{0};
        }
    });
    if (whole == count) return fits;
    return encode_kernels(Isa::scalar)
               .cut_fields(layout, elements + whole * layout.width, count - whole,
                           after(layout, fields, whole)) &&
           fits;
}

}  // namespace

void install(dispatch::Level<Isa::avx2>, EncodeKernels& kernels) noexcept {
    kernels.cut_fields = cut_fields;
}

}  // namespace tersor::lossless

#include "dispatch/target_end.hpp"

#endif
