// The kernels of convolutions, one column per instruction-set level.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "conv/layout.hpp"
#include "dispatch/kernel_table.hpp"
#include "tersor/isa.hpp"

namespace tersor::conv {

/// A filter's entries for the channels of a patch.
struct Entries {
    const std::uint16_t* offsets;  // in the patch, in units of `offset_unit`
    const std::uint32_t* weights;  // words
    std::size_t size;
};

/// after[t * 16 + lane] = before[t * 16 + lane] + sum of weight * patch[offset + t], for the T
/// vectors of a tile; `before` may be nullptr, which stands for zeros. Sums of pairs and quads are
/// exact: the integers must not overflow 32 bits.
using Sum = void (*)(const Entries& entries, const std::uint32_t* patch, const float* before,
                     float* after) noexcept;

/// By kind of word and number of vectors; nullptr where a level has no such kernel.
using SumTable = std::array<std::array<Sum, most_vectors + 1>, word_kinds>;

/// Planes of words that a patch is filled from.
struct PlanesView {
    const std::uint32_t* words;
    std::size_t plane;           // words from one channel to the next
    std::size_t channels;        // of words
    const std::uint32_t* zeros;  // by lane: what padding holds
};

/// Writes the vectors of each channel in turn.
using FillByStep = void (*)(const PlanesView& from, const VectorSource* vectors, std::size_t count,
                            std::uint32_t* patch) noexcept;
using FillIndexed = void (*)(const PlanesView& from, const IndexedSource* vectors,
                             std::size_t count, std::uint32_t* patch) noexcept;

/// words[i] = the integers round(x[c * plane + i] * scale) + zero of up to two or four channels,
/// the first in the lowest bits; quads are limited to 0 to 255.
using MakeWords = void (*)(const float* x, std::size_t plane, std::size_t channels,
                           std::size_t size, float scale, int zero, std::uint32_t* words) noexcept;

/// What is done with a sum before it is written: y = clamp(sum * scale + offset).
struct Finishing {
    float scale;
    float offset;
    float low;
    float high;
};
using Store = void (*)(const float* sums, const VectorTarget* targets, std::size_t vectors,
                       const Finishing& finishing, float* y) noexcept;

/// The same where each lane is an image: y[lane * stride + t] for `vectors` vectors, with a scale
/// and an offset for each lane.
struct ImagesFinishing {
    float scale[lanes];
    float offset[lanes];
    float low;
    float high;
};
using StoreImages = void (*)(const float* sums, std::size_t vectors,
                             const ImagesFinishing& finishing, std::size_t stride,
                             float* y) noexcept;

/// One channel of a depthwise convolution.
struct DepthwiseShape {
    std::int32_t height;
    std::int32_t width;
    std::int32_t output_height;
    std::int32_t output_width;
    std::int32_t padding_h;
    std::int32_t padding_w;
};

/// y = clamp(x * weights + offset) for one channel in fp32, weights that are 0 included: 0 times
/// NaN is NaN. `Finishing::scale` is not looked at.
using Depthwise = void (*)(const DepthwiseShape& shape, const float* x, const float* weights,
                           const Finishing& finishing, float* y) noexcept;

/// For kernels of 3 x 3 and 5 x 5 taps, and strides of 1 and 2; nullptr where a level has none.
using DepthwiseTable = std::array<std::array<Depthwise, 2>, 2>;

struct Kernels {
#define TERSOR_KERNEL(name, type) type name{};
#include "conv/kernels.def"
#undef TERSOR_KERNEL
};

void install(dispatch::Level<Isa::scalar>, Kernels& kernels) noexcept;
void install(dispatch::Level<Isa::avx2>, Kernels& kernels) noexcept;
void install(dispatch::Level<Isa::avx512>, Kernels& kernels) noexcept;
void install(dispatch::Level<Isa::neon>, Kernels& kernels) noexcept;

/// Part of the last, in a file of its own.
[[nodiscard]] DepthwiseTable depthwise_avx512() noexcept;

/// The kernels of a level.
[[nodiscard]] inline const Kernels& kernels(Isa isa) noexcept {
    return dispatch::KernelTable<Kernels, Isa::scalar, Isa::avx2, Isa::avx512, Isa::neon>::at(isa);
}

}  // namespace tersor::conv
