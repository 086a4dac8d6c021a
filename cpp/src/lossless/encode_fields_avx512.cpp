// Cutting elements, 64 at a time: the inverse of fields_avx512.cpp.
#include "dispatch/architecture.hpp"
#include "lossless/element.hpp"
#include "lossless/kernels.hpp"

#if TERSOR_AVX512

#include <immintrin.h>

#include "dispatch/target_avx512.hpp"

namespace tersor::lossless {
namespace {

constexpr std::size_t step = 64;

template <class T, Transform transform>
__m512i number_of(__m512i x, __m512i base) noexcept {
    if constexpr (sizeof(T) == 2) {
        if constexpr (transform == Transform::rotate) x = _mm512_shldi_epi16(x, x, 1);
        if constexpr (transform == Transform::fold) {
            x = _mm512_xor_si512(_mm512_slli_epi16(x, 1), _mm512_srai_epi16(x, 15));
        }
        return _mm512_sub_epi16(x, base);
    } else {
        if constexpr (transform == Transform::rotate) x = _mm512_rol_epi32(x, 1);
        if constexpr (transform == Transform::fold) {
            x = _mm512_xor_si512(_mm512_slli_epi32(x, 1), _mm512_srai_epi32(x, 31));
        }
        return _mm512_sub_epi32(x, base);
    }
}

/// Puts the bits of field 1 together: of two bytes, of four, of eight.
void pack(__m512i bytes, int bits, std::uint8_t* to) noexcept {
    const __m512i two = _mm512_set1_epi16(static_cast<short>(1 | (1 << (bits + 8))));
    const __m512i four = _mm512_set1_epi32(1 | (1 << (2 * bits + 16)));
    const __m512i pairs = _mm512_madd_epi16(_mm512_maddubs_epi16(two, bytes), four);
    const __m512i low = _mm512_and_si512(pairs, _mm512_set1_epi64(0xffffffffLL));
    const __m512i high =
        _mm512_srl_epi64(_mm512_andnot_si512(_mm512_set1_epi64(0xffffffffLL), pairs),
                         _mm_cvtsi32_si128(32 - 4 * bits));
    const __mmask64 kept = 0x0101010101010101ULL * ((1U << bits) - 1);
    _mm512_mask_storeu_epi8(to, (__mmask64{1} << (8 * bits)) - 1,
                            _mm512_maskz_compress_epi8(kept, _mm512_or_si512(low, high)));
}

template <class T, Transform transform>
bool cut(const Layout& layout, const std::uint8_t* elements, std::size_t count,
         const FieldsOut& fields) noexcept {
    constexpr int vectors = sizeof(T);  // of 64 elements
    const __m512i base = sizeof(T) == 2 ? _mm512_set1_epi16(static_cast<short>(base_of<T>(layout)))
                                        : _mm512_set1_epi32(static_cast<int>(base_of<T>(layout)));
    const int bits = layout.bits(1);
    const __m128i joined = _mm_cvtsi32_si128(layout.joined);
    const __m512i second_mask = _mm512_set1_epi16(static_cast<short>((1 << bits) - 1));
    const __m512i byte_mask = _mm512_set1_epi16(255);
    const __m512i quads = _mm512_setr_epi64(0, 2, 4, 6, 1, 3, 5, 7);
    const __m512i doubles = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    // Words, each below 256, to bytes in the order of the elements.
    const auto narrow = [&](__m512i low, __m512i high) noexcept {
        const __m512i bytes = _mm512_packus_epi16(low, high);
        return sizeof(T) == 2 ? _mm512_permutexvar_epi64(quads, bytes)
                              : _mm512_permutexvar_epi32(doubles, bytes);
    };
    __m512i seen = _mm512_setzero_si512();
    std::uint8_t* second = fields.bytes[1];
    const std::size_t second_step = fields.packed ? static_cast<std::size_t>(8 * bits) : step;
    for (std::size_t i = 0; i < count; i += step) {
        __m512i y[vectors];
#pragma GCC unroll 4
        for (int v = 0; v < vectors; ++v) {
            y[v] = number_of<T, transform>(
                _mm512_loadu_si512(elements + i * sizeof(T) + 64 * static_cast<std::size_t>(v)),
                base);
            seen = _mm512_or_si512(seen, y[v]);
        }
        __m512i low = y[0];
        __m512i high = y[1];  // the upper words
        if constexpr (sizeof(T) == 4) {
            low = _mm512_packus_epi32(_mm512_srli_epi32(y[0], 16), _mm512_srli_epi32(y[1], 16));
            high = _mm512_packus_epi32(_mm512_srli_epi32(y[2], 16), _mm512_srli_epi32(y[3], 16));
            const __m512i words = _mm512_set1_epi32(0xffff);
            const __m512i a =
                _mm512_packus_epi32(_mm512_and_si512(y[0], words), _mm512_and_si512(y[1], words));
            const __m512i b =
                _mm512_packus_epi32(_mm512_and_si512(y[2], words), _mm512_and_si512(y[3], words));
            if (fields.bytes[2] != nullptr) {
                _mm512_storeu_si512(fields.bytes[2] + i,
                                    narrow(_mm512_srli_epi16(a, 8), _mm512_srli_epi16(b, 8)));
            }
            if (fields.bytes[3] != nullptr) {
                _mm512_storeu_si512(fields.bytes[3] + i, narrow(_mm512_and_si512(a, byte_mask),
                                                                _mm512_and_si512(b, byte_mask)));
            }
        }
        if (fields.bytes[0] != nullptr) {
            _mm512_storeu_si512(fields.bytes[0] + i,
                                narrow(_mm512_srli_epi16(_mm512_sll_epi16(low, joined), 8),
                                       _mm512_srli_epi16(_mm512_sll_epi16(high, joined), 8)));
        }
        if (second != nullptr) {
            const __m512i bytes =
                narrow(_mm512_and_si512(low, second_mask), _mm512_and_si512(high, second_mask));
            if (fields.packed) {
                pack(bytes, bits, second);
            } else {
                _mm512_storeu_si512(second, bytes);
            }
            second += second_step;
        }
    }
    if (layout.joined == 0) return true;
    const T room = static_cast<T>(~T{0} << (bits_of<T> - layout.joined));
    if constexpr (sizeof(T) == 2) {
        return _mm512_test_epi16_mask(seen, _mm512_set1_epi16(static_cast<short>(room))) == 0;
    } else {
        return _mm512_test_epi32_mask(seen, _mm512_set1_epi32(static_cast<int>(room))) == 0;
    }
}

bool cut_fields(const Layout& layout, const std::uint8_t* elements, std::size_t count,
                const FieldsOut& fields) noexcept {
    const std::size_t whole = layout.width <= 4 ? count / step * step : 0;
    const bool fits = with_layout(layout, [&]<class T, Transform transform>() noexcept {
        if constexpr (sizeof(T) <= 4) {
            return cut<T, transform>(layout, elements, whole, fields);
        } else {
            return true;
        }
    });
    if (whole == count) return fits;
    return encode_kernels(Isa::scalar)
               .cut_fields(layout, elements + whole * layout.width, count - whole,
                           after(layout, fields, whole)) &&
           fits;
}

}  // namespace

void install(dispatch::Level<Isa::avx512>, EncodeKernels& kernels) noexcept {
    kernels.cut_fields = cut_fields;
}

}  // namespace tersor::lossless

#include "dispatch/target_end.hpp"

#endif
