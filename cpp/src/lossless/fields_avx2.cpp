// Joining fields, 32 elements at a time; see fields_avx512.cpp. Bits without gaps are spread by
// pdep, eight elements an instruction.
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

__m256i loaded(const std::uint8_t* from) noexcept {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
}

/// The bits of 32 elements; up to two bytes behind them are read.
__m256i unpack(const std::uint8_t* packed, std::size_t bits) noexcept {
    const std::uint64_t kept = 0x0101010101010101ULL * ((1U << bits) - 1);
    alignas(32) std::uint64_t spread[4];
    for (std::size_t q = 0; q < 4; ++q) {
        std::uint64_t window;
        std::memcpy(&window, packed + q * bits, 8);
        spread[q] = _pdep_u64(window, kept);
    }
    return _mm256_load_si256(reinterpret_cast<const __m256i*>(spread));
}

template <class T, Transform transform>
__m256i element_of(__m256i y, __m256i base) noexcept {
    const __m256i zero = _mm256_setzero_si256();
    if constexpr (sizeof(T) == 2) {
        y = _mm256_add_epi16(y, base);
        if constexpr (transform == Transform::none) return y;
        const __m256i half = _mm256_srli_epi16(y, 1);
        if constexpr (transform == Transform::rotate) {
            return _mm256_or_si256(half, _mm256_slli_epi16(y, 15));
        }
        const __m256i sign = _mm256_and_si256(y, _mm256_set1_epi16(1));
        return _mm256_xor_si256(half, _mm256_sub_epi16(zero, sign));
    } else {
        y = _mm256_add_epi32(y, base);
        if constexpr (transform == Transform::none) return y;
        const __m256i half = _mm256_srli_epi32(y, 1);
        if constexpr (transform == Transform::rotate) {
            return _mm256_or_si256(half, _mm256_slli_epi32(y, 31));
        }
        const __m256i sign = _mm256_and_si256(y, _mm256_set1_epi32(1));
        return _mm256_xor_si256(half, _mm256_sub_epi32(zero, sign));
    }
}

/// Joins runs of 32 elements; returns how many elements that were.
template <class T, Transform transform, bool packed>
std::size_t join(const Layout& layout, const Fields& fields, std::size_t count,
                 std::uint8_t* elements, bool streaming) noexcept {
    const auto bits = static_cast<std::size_t>(layout.bits(1));
    const __m128i joined = _mm_cvtsi32_si128(layout.joined);
    const __m256i base = sizeof(T) == 2 ? _mm256_set1_epi16(static_cast<short>(base_of<T>(layout)))
                                        : _mm256_set1_epi32(static_cast<int>(base_of<T>(layout)));
    const __m256i doubles = _mm256_setr_epi32(0, 2, 4, 6, 1, 3, 5, 7);
    const auto in_order = [&](__m256i bytes) noexcept {
        return sizeof(T) == 2 ? _mm256_permute4x64_epi64(bytes, 0xd8)
                              : _mm256_permutevar8x32_epi32(bytes, doubles);
    };
    const auto put = [&](std::size_t i, __m256i y) noexcept {
        const __m256i x = element_of<T, transform>(y, base);
        auto* const to = reinterpret_cast<__m256i*>(elements + i);
        streaming ? _mm256_stream_si256(to, x) : _mm256_storeu_si256(to, x);
    };
    const std::uint8_t* second = fields.bytes[1];
    std::size_t i = 0;
    for (; i + step + (packed ? 8 : 0) <= count; i += step, second += packed ? 4 * bits : step) {
        const __m256i top = in_order(loaded(fields.bytes[0] + i));
        __m256i next = packed ? unpack(second, bits) : loaded(second);
        next = in_order(_mm256_sll_epi16(next, joined));
        const __m256i low = _mm256_srl_epi16(_mm256_unpacklo_epi8(next, top), joined);
        const __m256i high = _mm256_srl_epi16(_mm256_unpackhi_epi8(next, top), joined);
        if constexpr (sizeof(T) == 2) {
            put(2 * i, low);
            put(2 * i + 32, high);
        } else {
            const __m256i third = in_order(loaded(fields.bytes[2] + i));
            const __m256i last = in_order(loaded(fields.bytes[3] + i));
            const __m256i below = _mm256_unpacklo_epi8(last, third);
            const __m256i above = _mm256_unpackhi_epi8(last, third);
            put(4 * i, _mm256_unpacklo_epi16(below, low));
            put(4 * i + 32, _mm256_unpackhi_epi16(below, low));
            put(4 * i + 64, _mm256_unpacklo_epi16(above, high));
            put(4 * i + 96, _mm256_unpackhi_epi16(above, high));
        }
    }
    if (streaming) _mm_sfence();  // streamed stores are not ordered by what joins threads
    return i;
}

void join_fields(const Layout& layout, const Fields& fields, std::size_t count,
                 std::uint8_t* elements, bool streaming) noexcept {
    std::size_t whole = 0;
    with_layout(layout, fields.packed, [&]<class T, Transform transform, bool packed>() noexcept {
        if constexpr (sizeof(T) <= 4) {
            whole = join<T, transform, packed>(layout, fields, count, elements, streaming);
        }
    });
    if (whole == count) return;
    decode_kernels(Isa::scalar)
        .join_fields(layout, after(layout, fields, whole), count - whole,
                     elements + whole * layout.width, false);
}

}  // namespace

void install(dispatch::Level<Isa::avx2>, DecodeKernels& kernels) noexcept {
    kernels.join_fields = join_fields;
}

}  // namespace tersor::lossless

#include "dispatch/target_end.hpp"

#endif
