// Portable C++: as the definitions have it, in loops over lanes that compilers vectorize.
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <type_traits>
#include <utility>

#include "conv/kernels.hpp"

namespace tersor::conv {
namespace {

std::int32_t integer_of(std::uint32_t word, unsigned shift, bool wide) noexcept {
    const std::uint32_t bits = word >> shift;
    if (wide) return static_cast<std::int16_t>(bits & 0xffffU);
    return static_cast<std::int32_t>(bits & 0xffU);
}

template <Word word, class Total>
void add_entry(const std::uint32_t* x, std::uint32_t weight, std::size_t words,
               Total* sums) noexcept {
    if constexpr (word == Word::floats) {
        const auto w = std::bit_cast<float>(weight);
        for (std::size_t i = 0; i < words; ++i) sums[i] += w * std::bit_cast<float>(x[i]);
    } else {
        constexpr bool pairs = word == Word::pairs;
        constexpr unsigned bits = pairs ? 16 : 8;
        for (unsigned shift = 0; shift < 32; shift += bits) {
            const std::int32_t w = pairs ? integer_of(weight, shift, true)
                                         : static_cast<std::int8_t>(weight >> shift & 0xffU);
            for (std::size_t i = 0; i < words; ++i) sums[i] += w * integer_of(x[i], shift, pairs);
        }
    }
}

template <Word word, std::size_t vectors>
void sum_entries(const Entries& entries, const std::uint32_t* patch, const float* before,
                 float* after) noexcept {
    using Total = std::conditional_t<word == Word::floats, float, std::int32_t>;
    constexpr std::size_t words = vectors * lanes;
    constexpr std::size_t unit = offset_unit / sizeof *patch;
    Total sums[words] = {};
    for (std::size_t k = 0; k < entries.size; ++k) {
        add_entry<word>(patch + unit * entries.offsets[k], entries.weights[k], words, sums);
    }
    for (std::size_t i = 0; i < words; ++i) {
        after[i] = static_cast<float>(sums[i]) + (before != nullptr ? before[i] : 0.0F);
    }
}

/// The memory may hold floats.
std::uint32_t word_at(const std::uint32_t* plane, std::int32_t at) noexcept {
    std::uint32_t word;
    std::memcpy(&word, plane + at, sizeof word);
    return word;
}

constexpr std::uint32_t all_lanes = (1U << lanes) - 1;

template <std::int32_t step>
void fill_by_step(const PlanesView& from, const VectorSource* vectors, std::size_t count,
                  std::uint32_t* patch) noexcept {
    for (std::size_t c = 0; c < from.channels; ++c) {
        const std::uint32_t* plane = from.words + c * from.plane;
        for (std::size_t v = 0; v < count; ++v, patch += lanes) {
            std::int32_t at = vectors[v].first;
            if (step == 1 && vectors[v].mask == all_lanes) {
                std::memcpy(patch, plane + at, vector_bytes);
                continue;
            }
            for (std::size_t lane = 0; lane < lanes; ++lane, at += step) {
                patch[lane] =
                    (vectors[v].mask >> lane & 1U) != 0 ? word_at(plane, at) : from.zeros[lane];
            }
        }
    }
}

void fill_indexed(const PlanesView& from, const IndexedSource* vectors, std::size_t count,
                  std::uint32_t* patch) noexcept {
    for (std::size_t c = 0; c < from.channels; ++c) {
        const std::uint32_t* plane = from.words + c * from.plane;
        for (std::size_t v = 0; v < count; ++v, patch += lanes) {
            for (std::size_t lane = 0; lane < lanes; ++lane) {
                const std::int32_t at = vectors[v].lane[lane];
                patch[lane] = at >= 0 ? word_at(plane, at) : from.zeros[lane];
            }
        }
    }
}

template <Word word>
void make_words(const float* x, std::size_t plane, std::size_t channels, std::size_t size,
                float scale, int zero, std::uint32_t* words) noexcept {
    for (std::size_t i = 0; i < size; ++i) {
        std::uint32_t joined = 0;
        for (std::size_t c = 0; c < channels; ++c) {
            const int integer = static_cast<int>(std::lrint(x[c * plane + i] * scale)) + zero;
            if constexpr (word == Word::pairs) {
                joined |= (static_cast<std::uint32_t>(integer) & 0xffffU) << (16 * c);
            } else {
                joined |= static_cast<std::uint32_t>(std::clamp(integer, 0, 255)) << (8 * c);
            }
        }
        words[i] = joined;
    }
}

void store(const float* sums, const VectorTarget* targets, std::size_t vectors,
           const Finishing& finishing, float* y) noexcept {
    for (std::size_t t = 0; t < vectors; ++t) {
        float* const to = y + targets[t].first;
        for (std::size_t i = 0; i < targets[t].count; ++i) {
            const float v = sums[t * lanes + i] * finishing.scale + finishing.offset;
            to[i] = v < finishing.low ? finishing.low : v > finishing.high ? finishing.high : v;
        }
    }
}

void store_images(const float* sums, std::size_t vectors, const ImagesFinishing& finishing,
                  std::size_t stride, float* y) noexcept {
    for (std::size_t lane = 0; lane < lanes; ++lane) {
        float* const to = y + lane * stride;
        for (std::size_t t = 0; t < vectors; ++t) {
            const float v = sums[t * lanes + lane] * finishing.scale[lane] + finishing.offset[lane];
            to[t] = v < finishing.low ? finishing.low : v > finishing.high ? finishing.high : v;
        }
    }
}

template <Word word, std::size_t... vectors>
void install_sums(Kernels& kernels, std::index_sequence<vectors...>) noexcept {
    ((kernels.sums[static_cast<std::size_t>(word)][vectors] = sum_entries<word, vectors>), ...);
}

}  // namespace

void install(dispatch::Level<Isa::scalar>, Kernels& kernels) noexcept {
    using Vectors = std::index_sequence<1, 2, 4>;
    install_sums<Word::floats>(kernels, Vectors());
    install_sums<Word::pairs>(kernels, Vectors());
    install_sums<Word::quads>(kernels, Vectors());
    kernels.fill_step_one = fill_by_step<1>;
    kernels.fill_step_two = fill_by_step<2>;
    kernels.fill_indexed = fill_indexed;
    kernels.make_pairs = make_words<Word::pairs>;
    kernels.make_quads = make_words<Word::quads>;
    kernels.store = store;
    kernels.store_images = store_images;
}

}  // namespace tersor::conv
