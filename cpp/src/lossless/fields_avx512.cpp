// Joining fields, 64 elements at a time. Bound by memory: 13 cycles for 64 elements of two bytes,
// 25 for those of four, of which the shuffles are the most. Fields are brought into the order in
// which interleaving bytes and words inside lanes leaves the elements in their own.
#include <algorithm>

#include "dispatch/architecture.hpp"
#include "lossless/element.hpp"
#include "lossless/kernels.hpp"

#if TERSOR_AVX512

#include <immintrin.h>

#include "dispatch/target_avx512.hpp"

namespace tersor::lossless {
namespace {

constexpr std::size_t step = 64;

/// How the bits of field 1 are unpacked.
struct Unpack {
    __m512i bytes;   // the bytes of eight elements to each quadword
    __m512i shifts;  // where the bits of each element begin in it
    __m512i mask;
    __mmask64 loaded;

    explicit Unpack(int bits) noexcept {
        alignas(64) std::uint8_t from[64];
        alignas(64) std::uint8_t shift[64];
        for (int i = 0; i < 64; ++i) {
            from[i] = static_cast<std::uint8_t>(i / 8 * bits + std::min(i % 8, bits - 1));
            shift[i] = static_cast<std::uint8_t>(i % 8 * bits);
        }
        bytes = _mm512_load_si512(from);
        shifts = _mm512_load_si512(shift);
        mask = _mm512_set1_epi8(static_cast<char>((1 << bits) - 1));
        loaded = bits == 8 ? ~__mmask64{0} : (__mmask64{1} << (8 * bits)) - 1;
    }
    [[nodiscard]] __m512i operator()(const std::uint8_t* packed) const noexcept {
        const __m512i in = _mm512_maskz_loadu_epi8(loaded, packed);
        const __m512i spread = _mm512_permutexvar_epi8(bytes, in);
        return _mm512_and_si512(_mm512_multishift_epi64_epi8(shifts, spread), mask);
    }
};

template <class T, Transform transform>
__m512i element_of(__m512i y, __m512i base) noexcept {
    if constexpr (sizeof(T) == 2) {
        y = _mm512_add_epi16(y, base);
        if constexpr (transform == Transform::rotate) return _mm512_shrdi_epi16(y, y, 1);
        if constexpr (transform == Transform::fold) {
            const __m512i sign = _mm512_and_si512(y, _mm512_set1_epi16(1));
            return _mm512_xor_si512(_mm512_srli_epi16(y, 1),
                                    _mm512_sub_epi16(_mm512_setzero_si512(), sign));
        }
    } else {
        y = _mm512_add_epi32(y, base);
        if constexpr (transform == Transform::rotate) return _mm512_ror_epi32(y, 1);
        if constexpr (transform == Transform::fold) {
            const __m512i sign = _mm512_and_si512(y, _mm512_set1_epi32(1));
            return _mm512_xor_si512(_mm512_srli_epi32(y, 1),
                                    _mm512_sub_epi32(_mm512_setzero_si512(), sign));
        }
    }
    return y;
}

template <class T, Transform transform, bool packed>
void join(const Layout& layout, const Fields& fields, std::size_t count, std::uint8_t* elements,
          bool streaming) noexcept {
    const Unpack unpack(layout.bits(1));
    const __m128i joined = _mm_cvtsi32_si128(layout.joined);
    const __m512i base = sizeof(T) == 2 ? _mm512_set1_epi16(static_cast<short>(base_of<T>(layout)))
                                        : _mm512_set1_epi32(static_cast<int>(base_of<T>(layout)));
    const __m512i quads = _mm512_setr_epi64(0, 4, 1, 5, 2, 6, 3, 7);
    const __m512i doubles = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    const auto in_order = [&](__m512i bytes) noexcept {
        return sizeof(T) == 2 ? _mm512_permutexvar_epi64(quads, bytes)
                              : _mm512_permutexvar_epi32(doubles, bytes);
    };
    const auto put = [&](std::size_t i, __m512i y) noexcept {
        const __m512i x = element_of<T, transform>(y, base);
        if (streaming) {
            _mm512_stream_si512(reinterpret_cast<__m512i*>(elements + i), x);
        } else {
            _mm512_storeu_si512(elements + i, x);
        }
    };
    const std::uint8_t* second = fields.bytes[1];
    const std::size_t second_step = packed ? static_cast<std::size_t>(8 * layout.bits(1)) : step;
    for (std::size_t i = 0; i < count; i += step, second += second_step) {
        const __m512i top = in_order(_mm512_loadu_si512(fields.bytes[0] + i));
        __m512i next = packed ? unpack(second) : _mm512_loadu_si512(second);
        next = in_order(_mm512_sll_epi16(next, joined));
        const __m512i low = _mm512_srl_epi16(_mm512_unpacklo_epi8(next, top), joined);
        const __m512i high = _mm512_srl_epi16(_mm512_unpackhi_epi8(next, top), joined);
        if constexpr (sizeof(T) == 2) {
            put(2 * i, low);
            put(2 * i + 64, high);
        } else {
            const __m512i third = in_order(_mm512_loadu_si512(fields.bytes[2] + i));
            const __m512i last = in_order(_mm512_loadu_si512(fields.bytes[3] + i));
            const __m512i below = _mm512_unpacklo_epi8(last, third);
            const __m512i above = _mm512_unpackhi_epi8(last, third);
            put(4 * i, _mm512_unpacklo_epi16(below, low));
            put(4 * i + 64, _mm512_unpackhi_epi16(below, low));
            put(4 * i + 128, _mm512_unpacklo_epi16(above, high));
            put(4 * i + 192, _mm512_unpackhi_epi16(above, high));
        }
    }
    if (streaming) _mm_sfence();  // streamed stores are not ordered by what joins threads
}

void join_fields(const Layout& layout, const Fields& fields, std::size_t count,
                 std::uint8_t* elements, bool streaming) noexcept {
    const std::size_t whole = layout.width <= 4 ? count / step * step : 0;
    with_layout(layout, fields.packed, [&]<class T, Transform transform, bool packed>() noexcept {
        if constexpr (sizeof(T) <= 4) {
            join<T, transform, packed>(layout, fields, whole, elements, streaming);
        }
    });
    if (whole == count) return;
    decode_kernels(Isa::scalar)
        .join_fields(layout, after(layout, fields, whole), count - whole,
                     elements + whole * layout.width, false);
}

}  // namespace

void install(dispatch::Level<Isa::avx512>, DecodeKernels& kernels) noexcept {
    kernels.join_fields = join_fields;
}

}  // namespace tersor::lossless

#include "dispatch/target_end.hpp"

#endif
