// AVX2: a vector of 16 lanes is two registers, so that a tile has up to 6.
#include "conv/kernels.hpp"
#include "dispatch/architecture.hpp"

#if TERSOR_X86

#include <immintrin.h>

#include <cstring>
#include <utility>

#include "dispatch/target_avx2.hpp"

namespace tersor::conv {
namespace {

constexpr std::size_t half = lanes / 2;

/// sum += x * weight; see the kernel for AVX-512.
template <Word word>
[[gnu::always_inline]] inline void multiply_add(__m256i& sum, const char* x,
                                                __m256i weight) noexcept {
    const auto& words = *reinterpret_cast<const __m256i*>(x);
    if constexpr (word == Word::floats) {
        __asm__("vfmadd231ps %2, %1, %0" : "+x"(sum) : "x"(weight), "m"(words));
    } else {
        // Together: compilers compute the products of many sums first, and have no room for them.
        __m256i product;
        __asm__("vpmaddwd %3, %2, %1\n\tvpaddd %1, %0, %0"
                : "+x"(sum), "=&x"(product)
                : "x"(weight), "m"(words));
    }
}

/// Of a group of four.
template <int i>
unsigned offset_at(std::uint64_t group) noexcept {
    return static_cast<unsigned>(group >> (16 * i) & 0xffff);
}

template <Word word, int vectors>
void sum_entries(const Entries& entries, const std::uint32_t* patch, const float* before,
                 float* after) noexcept {
    constexpr int registers = 2 * vectors;
    constexpr int chains = vectors < 2 ? 4 : vectors < 4 ? 2 : 1;
    __m256i sums[chains * registers];
#pragma GCC unroll 16
    for (__m256i& sum : sums) sum = _mm256_setzero_si256();
    const auto take = [&](unsigned offset, __m256i weight,
                          int chain) __attribute__((always_inline)) {
        const char* x = reinterpret_cast<const char*>(patch) + offset_unit * offset;
        __asm__("" : "+r"(x));  // see the kernel for AVX-512
#pragma GCC unroll 16
        for (int t = 0; t < registers; ++t) {
            multiply_add<word>(sums[chain * registers + t], x + t * 32, weight);
        }
    };
    std::uint64_t next;
    std::memcpy(&next, entries.offsets, sizeof next);
    std::size_t k = 0;
    for (; k + 4 <= entries.size; k += 4) {
        const std::uint64_t group = next;
        std::memcpy(&next, entries.offsets + k + 4, sizeof next);
        __asm__ volatile("" : "+r"(next));
        const auto* four = reinterpret_cast<const __m128i*>(entries.weights + k);
        __m256i weights = _mm256_broadcastsi128_si256(_mm_loadu_si128(four));
        __asm__("" : "+x"(weights));
        take(offset_at<0>(group), _mm256_shuffle_epi32(weights, 0x00), 0);
        take(offset_at<1>(group), _mm256_shuffle_epi32(weights, 0x55), 1 % chains);
        take(offset_at<2>(group), _mm256_shuffle_epi32(weights, 0xaa), 2 % chains);
        take(offset_at<3>(group), _mm256_shuffle_epi32(weights, 0xff), 3 % chains);
    }
    for (; k < entries.size; ++k, next >>= 16) {
        take(offset_at<0>(next), _mm256_set1_epi32(static_cast<int>(entries.weights[k])), 0);
    }
#pragma GCC unroll 16
    for (int t = 0; t < registers; ++t) {
        __m256 total = _mm256_setzero_ps();
#pragma GCC unroll 4
        for (int c = 0; c < chains; ++c) {
            const __m256i sum = sums[c * registers + t];
            const __m256 part =
                word == Word::floats ? _mm256_castsi256_ps(sum) : _mm256_cvtepi32_ps(sum);
            total = c == 0 ? part : _mm256_add_ps(total, part);
        }
        if (before != nullptr) total = _mm256_add_ps(total, _mm256_load_ps(before + 8 * t));
        _mm256_store_ps(after + 8 * t, total);
    }
}

/// All bits of the lanes whose bit of the mask is set.
__m256i lanes_of(std::uint32_t mask) noexcept {
    const __m256i bits = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
    const __m256i all = _mm256_set1_epi32(static_cast<int>(mask));
    return _mm256_cmpeq_epi32(_mm256_and_si256(all, bits), bits);
}

/// What padding holds in half of the lanes.
__m256i zeros_of(const PlanesView& from, std::size_t h) noexcept {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from.zeros + h * half));
}

__m256i load_lanes(const std::uint32_t* at, __m256i inside, __m256i zero) noexcept {
    const __m256i words = _mm256_maskload_epi32(reinterpret_cast<const int*>(at), inside);
    return _mm256_blendv_epi8(zero, words, inside);
}

void fill_step_one(const PlanesView& from, const VectorSource* vectors, std::size_t count,
                   std::uint32_t* patch) noexcept {
    const __m256i zero[] = {zeros_of(from, 0), zeros_of(from, 1)};
    for (std::size_t v = 0; v < count; ++v) {
        const __m256i inside[] = {lanes_of(vectors[v].mask), lanes_of(vectors[v].mask >> half)};
        const std::uint32_t* at = from.words + std::ptrdiff_t{vectors[v].first};
        std::uint32_t* to = patch + v * lanes;
        for (std::size_t c = 0; c < from.channels; ++c, at += from.plane, to += count * lanes) {
            for (std::size_t h = 0; h < 2; ++h) {
                _mm256_store_si256(reinterpret_cast<__m256i*>(to + h * half),
                                   load_lanes(at + h * half, inside[h], zero[h]));
            }
        }
    }
}

/// By gathers, from indices that a lane's place or a table gives.
__m256i gather_lanes(const std::uint32_t* plane, __m256i index, __m256i inside,
                     __m256i zero) noexcept {
    return _mm256_mask_i32gather_epi32(zero, reinterpret_cast<const int*>(plane), index, inside, 4);
}

void fill_step_two(const PlanesView& from, const VectorSource* vectors, std::size_t count,
                   std::uint32_t* patch) noexcept {
    const __m256i zero[] = {zeros_of(from, 0), zeros_of(from, 1)};
    const __m256i index = _mm256_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14);
    for (std::size_t c = 0; c < from.channels; ++c) {
        for (std::size_t v = 0; v < count; ++v, patch += lanes) {
            const std::uint32_t* at =
                from.words + c * from.plane + std::ptrdiff_t{vectors[v].first};
            for (std::size_t h = 0; h < 2; ++h) {
                const __m256i inside = lanes_of(vectors[v].mask >> (h * half));
                _mm256_store_si256(reinterpret_cast<__m256i*>(patch + h * half),
                                   gather_lanes(at + 2 * h * half, index, inside, zero[h]));
            }
        }
    }
}

void fill_indexed(const PlanesView& from, const IndexedSource* vectors, std::size_t count,
                  std::uint32_t* patch) noexcept {
    const __m256i zero[] = {zeros_of(from, 0), zeros_of(from, 1)};
    for (std::size_t c = 0; c < from.channels; ++c) {
        const std::uint32_t* plane = from.words + c * from.plane;
        for (std::size_t v = 0; v < count; ++v, patch += lanes) {
            for (std::size_t h = 0; h < 2; ++h) {
                const __m256i index = _mm256_loadu_si256(
                    reinterpret_cast<const __m256i*>(vectors[v].lane + h * half));
                const __m256i inside = _mm256_cmpgt_epi32(index, _mm256_set1_epi32(-1));
                _mm256_store_si256(reinterpret_cast<__m256i*>(patch + h * half),
                                   gather_lanes(plane, index, inside, zero[h]));
            }
        }
    }
}

void make_pairs(const float* x, std::size_t plane, std::size_t channels, std::size_t size,
                float scale, int /*zero*/, std::uint32_t* words) noexcept {
    const __m256 factor = _mm256_set1_ps(scale);
    for (std::size_t i = 0; i < size; i += half) {
        const std::uint32_t mask = size - i < half ? (1U << (size - i)) - 1 : 0xff;
        const __m256i valid = lanes_of(mask);
        const auto integers = [&](std::size_t c) {
            const __m256 values = _mm256_maskload_ps(x + c * plane + i, valid);
            return _mm256_cvtps_epi32(_mm256_mul_ps(values, factor));
        };
        const __m256i first = _mm256_and_si256(integers(0), _mm256_set1_epi32(0xffff));
        const __m256i second =
            channels > 1 ? _mm256_slli_epi32(integers(1), 16) : _mm256_setzero_si256();
        _mm256_maskstore_epi32(reinterpret_cast<int*>(words + i), valid,
                               _mm256_or_si256(first, second));
    }
}

void store(const float* sums, const VectorTarget* targets, std::size_t vectors,
           const Finishing& finishing, float* y) noexcept {
    const __m256 scale = _mm256_set1_ps(finishing.scale);
    const __m256 offset = _mm256_set1_ps(finishing.offset);
    const __m256 low = _mm256_set1_ps(finishing.low);
    const __m256 high = _mm256_set1_ps(finishing.high);
    for (std::size_t t = 0; t < vectors; ++t) {
        const std::uint32_t mask = (1U << targets[t].count) - 1;
        for (std::size_t h = 0; h < 2; ++h) {
            __m256 v = _mm256_fmadd_ps(_mm256_load_ps(sums + lanes * t + h * half), scale, offset);
            v = _mm256_min_ps(high, _mm256_max_ps(low, v));  // in this order NaN stays
            _mm256_maskstore_ps(y + targets[t].first + h * half, lanes_of(mask >> (h * half)), v);
        }
    }
}

template <Word word, int... vectors>
void install_sums(Kernels& kernels, std::integer_sequence<int, vectors...>) noexcept {
    ((kernels.sums[static_cast<std::size_t>(word)][vectors] = sum_entries<word, vectors>), ...);
}

}  // namespace

void install(dispatch::Level<Isa::avx2>, Kernels& kernels) noexcept {
    using Vectors = std::integer_sequence<int, 1, 2, 3, 4, 5, 6>;
    // Without quads: products of bytes are added in 16 bits, which three instructions keep from
    // overflowing, and pairs take two.
    kernels.sums = {};
    install_sums<Word::floats>(kernels, Vectors());
    install_sums<Word::pairs>(kernels, Vectors());
    kernels.fill_step_one = fill_step_one;
    kernels.fill_step_two = fill_step_two;
    kernels.fill_indexed = fill_indexed;
    kernels.make_pairs = make_pairs;
    kernels.store = store;
}

}  // namespace tersor::conv

#include "dispatch/target_end.hpp"

#endif
