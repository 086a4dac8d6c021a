// AVX-512: a tile's sums live in 4 to 28 registers while all entries of a filter pass.
#include "conv/kernels.hpp"
#include "dispatch/architecture.hpp"

#if TERSOR_AVX512

#include <immintrin.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "dispatch/target_avx512.hpp"

namespace tersor::conv {
namespace {

/// sum += x * weight. In assembly, as compilers copy sums from register to register around a loop
/// rather than add in place, and load what could be an operand in memory.
template <Word word>
[[gnu::always_inline]] inline void multiply_add(__m512i& sum, const char* x,
                                                __m512i weight) noexcept {
    const auto& words = *reinterpret_cast<const __m512i*>(x);
    if constexpr (word == Word::floats) {
        __asm__("vfmadd231ps %2, %1, %0" : "+v"(sum) : "v"(weight), "m"(words));
    } else if constexpr (word == Word::pairs) {
        __asm__("vpdpwssd %2, %1, %0" : "+v"(sum) : "v"(weight), "m"(words));
    } else {  // the operand in memory would be the signed one
        __asm__("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(words), "v"(weight));
    }
}

template <Word word>
[[gnu::always_inline]] inline __m512 to_float(__m512i sum) noexcept {
    if constexpr (word == Word::floats) return _mm512_castsi512_ps(sum);
    return _mm512_cvtepi32_ps(sum);
}

template <Word word>
[[gnu::always_inline]] inline __m512i add(__m512i a, __m512i b) noexcept {
    if constexpr (word == Word::floats) {
        return _mm512_castps_si512(_mm512_add_ps(_mm512_castsi512_ps(a), _mm512_castsi512_ps(b)));
    } else {
        return _mm512_add_epi32(a, b);
    }
}

/// Chains of additions, so that no multiply-add waits for the one before.
constexpr int chains_of(int vectors) noexcept { return vectors < 4 ? 4 : vectors < 8 ? 2 : 1; }

/// Of a group of four.
template <int i>
unsigned offset_at(std::uint64_t group) noexcept {
    return static_cast<unsigned>(group >> (16 * i) & 0xffff);
}

template <Word word, int vectors>
void sum_entries(const Entries& entries, const std::uint32_t* patch, const float* before,
                 float* after) noexcept {
    constexpr int chains = chains_of(vectors);
    __m512i sums[chains * vectors];
#pragma GCC unroll 32
    for (__m512i& sum : sums) sum = _mm512_setzero_si512();
    const auto take = [&](unsigned offset, __m512i weight,
                          int chain) __attribute__((always_inline)) {
        const char* x = reinterpret_cast<const char*>(patch) + offset_unit * offset;
        __asm__("" : "+r"(x));  // in a register: an index would cost each multiply-add another step
#pragma GCC unroll 32
        for (int t = 0; t < vectors; ++t) {
            multiply_add<word>(sums[chain * vectors + t], x + t * vector_bytes, weight);
        }
    };
    // Offsets are read a group ahead: vector loads whose address is just being loaded run at half
    // the rate.
    std::uint64_t next;
    std::memcpy(&next, entries.offsets, sizeof next);
    std::size_t k = 0;
    for (; k + 4 <= entries.size; k += 4) {
        const std::uint64_t group = next;
        std::memcpy(&next, entries.offsets + k + 4, sizeof next);
        __asm__ volatile("" : "+r"(next));  // here, not where it is needed
        // One load for four weights, which a shuffle spreads: loads are what there is too few of.
        const auto* four = reinterpret_cast<const __m128i*>(entries.weights + k);
        __m512i weights = _mm512_broadcast_i32x4(_mm_loadu_si128(four));
        __asm__("" : "+v"(weights));
        take(offset_at<0>(group), _mm512_shuffle_epi32(weights, _MM_PERM_AAAA), 0);
        take(offset_at<1>(group), _mm512_shuffle_epi32(weights, _MM_PERM_BBBB), 1 % chains);
        take(offset_at<2>(group), _mm512_shuffle_epi32(weights, _MM_PERM_CCCC), 2 % chains);
        take(offset_at<3>(group), _mm512_shuffle_epi32(weights, _MM_PERM_DDDD), 3 % chains);
    }
    for (; k < entries.size; ++k, next >>= 16) {
        take(offset_at<0>(next), _mm512_set1_epi32(static_cast<int>(entries.weights[k])), 0);
    }
#pragma GCC unroll 32
    for (int t = 0; t < vectors; ++t) {
        __m512i sum = sums[t];
#pragma GCC unroll 4
        for (int c = 1; c < chains; ++c) sum = add<word>(sum, sums[c * vectors + t]);
        __m512 total = to_float<word>(sum);
        if (before != nullptr) total = _mm512_add_ps(total, _mm512_load_ps(before + 16 * t));
        _mm512_store_ps(after + 16 * t, total);
    }
}

void fill_step_one(const PlanesView& from, const VectorSource* vectors, std::size_t count,
                   std::uint32_t* patch) noexcept {
    const __m512i zero = _mm512_loadu_si512(from.zeros);
    for (std::size_t c = 0; c < from.channels; ++c) {
        const std::uint32_t* plane = from.words + c * from.plane;
        for (std::size_t v = 0; v < count; ++v, patch += lanes) {
            _mm512_store_si512(
                patch, _mm512_mask_loadu_epi32(zero, static_cast<__mmask16>(vectors[v].mask),
                                               plane + std::ptrdiff_t{vectors[v].first}));
        }
    }
}

void fill_step_two(const PlanesView& from, const VectorSource* vectors, std::size_t count,
                   std::uint32_t* patch) noexcept {
    const __m512i zero = _mm512_loadu_si512(from.zeros);
    const __m512i even =
        _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    for (std::size_t c = 0; c < from.channels; ++c) {
        const std::uint32_t* plane = from.words + c * from.plane;
        for (std::size_t v = 0; v < count; ++v, patch += lanes) {
            const std::uint32_t* at = plane + std::ptrdiff_t{vectors[v].first};
            const std::uint32_t mask = _pdep_u32(vectors[v].mask, 0x55555555);
            const __m512i low = _mm512_mask_loadu_epi32(zero, static_cast<__mmask16>(mask), at);
            const __m512i high =
                _mm512_mask_loadu_epi32(zero, static_cast<__mmask16>(mask >> 16), at + 16);
            _mm512_store_si512(patch, _mm512_permutex2var_epi32(low, even, high));
        }
    }
}

void fill_indexed(const PlanesView& from, const IndexedSource* vectors, std::size_t count,
                  std::uint32_t* patch) noexcept {
    const __m512i zero = _mm512_loadu_si512(from.zeros);
    for (std::size_t c = 0; c < from.channels; ++c) {
        const std::uint32_t* plane = from.words + c * from.plane;
        for (std::size_t v = 0; v < count; ++v, patch += lanes) {
            const __m512i index = _mm512_loadu_si512(vectors[v].lane);
            const __mmask16 inside = _mm512_cmpge_epi32_mask(index, _mm512_setzero_si512());
            _mm512_store_si512(patch, _mm512_mask_i32gather_epi32(zero, inside, index, plane, 4));
        }
    }
}

__mmask16 first_lanes(std::size_t count) noexcept {
    return static_cast<__mmask16>(count < lanes ? (1U << count) - 1 : 0xffff);
}

template <Word word>
void make_words(const float* x, std::size_t plane, std::size_t channels, std::size_t size,
                float scale, int zero, std::uint32_t* words) noexcept {
    constexpr int bits = word == Word::pairs ? 16 : 8;
    const __m512 factor = _mm512_set1_ps(scale);
    const __m512i origin = _mm512_set1_epi32(zero);
    for (std::size_t i = 0; i < size; i += lanes) {
        const __mmask16 valid = first_lanes(size - i);
        __m512i joined = _mm512_setzero_si512();
        for (std::size_t c = 0; c < channels; ++c) {
            const __m512 values = _mm512_maskz_loadu_ps(valid, x + c * plane + i);
            __m512i integers =
                _mm512_add_epi32(_mm512_cvtps_epi32(_mm512_mul_ps(values, factor)), origin);
            if constexpr (word == Word::pairs) {
                integers = _mm512_and_si512(integers, _mm512_set1_epi32(0xffff));
            } else {
                integers = _mm512_min_epi32(_mm512_max_epi32(integers, _mm512_setzero_si512()),
                                            _mm512_set1_epi32(0xff));
            }
            const __m128i shift = _mm_cvtsi32_si128(bits * static_cast<int>(c));
            joined = _mm512_or_si512(joined, _mm512_sll_epi32(integers, shift));
        }
        _mm512_mask_storeu_epi32(words + i, valid, joined);
    }
}

void store(const float* sums, const VectorTarget* targets, std::size_t vectors,
           const Finishing& finishing, float* y) noexcept {
    const __m512 scale = _mm512_set1_ps(finishing.scale);
    const __m512 offset = _mm512_set1_ps(finishing.offset);
    const __m512 low = _mm512_set1_ps(finishing.low);
    const __m512 high = _mm512_set1_ps(finishing.high);
    for (std::size_t t = 0; t < vectors; ++t) {
        __m512 v = _mm512_fmadd_ps(_mm512_load_ps(sums + lanes * t), scale, offset);
        v = _mm512_min_ps(high, _mm512_max_ps(low, v));  // in this order NaN stays
        _mm512_mask_storeu_ps(y + targets[t].first, first_lanes(targets[t].count), v);
    }
}

void store_images(const float* sums, std::size_t vectors, const ImagesFinishing& finishing,
                  std::size_t stride, float* y) noexcept {
    const __m512 scale = _mm512_loadu_ps(finishing.scale);
    const __m512 offset = _mm512_loadu_ps(finishing.offset);
    const __m512 low = _mm512_set1_ps(finishing.low);
    const __m512 high = _mm512_set1_ps(finishing.high);
    const __m512i places =
        _mm512_mullo_epi32(_mm512_set1_epi32(static_cast<int>(stride)),
                           _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15));
    for (std::size_t t = 0; t < vectors; ++t) {
        const __m512 v = _mm512_fmadd_ps(_mm512_load_ps(sums + lanes * t), scale, offset);
        _mm512_i32scatter_ps(y + t, places, _mm512_min_ps(high, _mm512_max_ps(low, v)), 4);
    }
}

template <Word word, int... vectors>
void install_sums(Kernels& kernels, std::integer_sequence<int, vectors...>) noexcept {
    ((kernels.sums[static_cast<std::size_t>(word)][vectors] = sum_entries<word, vectors>), ...);
}

}  // namespace

void install(dispatch::Level<Isa::avx512>, Kernels& kernels) noexcept {
    using Vectors = std::integer_sequence<int, 1, 2, 3, 4, 6, 7, 8, 10, 12, 13, 14, 20, 28>;
    kernels.sums = {};
    install_sums<Word::floats>(kernels, Vectors());
    install_sums<Word::pairs>(kernels, Vectors());
    install_sums<Word::quads>(kernels, Vectors());
    kernels.fill_step_one = fill_step_one;
    kernels.fill_step_two = fill_step_two;
    kernels.fill_indexed = fill_indexed;
    kernels.make_pairs = make_words<Word::pairs>;
    kernels.make_quads = make_words<Word::quads>;
    kernels.store = store;
    kernels.store_images = store_images;
    kernels.depthwise = depthwise_avx512();
}

}  // namespace tersor::conv

#include "dispatch/target_end.hpp"

#endif
