// Images as planes of words, and the convolution of some of them by a plan.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "conv/kernels.hpp"
#include "conv/plan.hpp"
#include "spmm/epilogue/outputs.hpp"
#include "spmm/fixed_point.hpp"
#include "tersor/isa.hpp"

namespace tersor::conv {

/// An image as a plan reads it: planes of words, what padding holds, and what the integers mean:
/// x = unit * (integer - zero).
struct Image {
    const std::uint32_t* words = nullptr;
    float unit = 1.0F;
    int zero = 0;
    std::size_t output = 0;  // where its outputs begin among all
};

/// How an image becomes integers.
struct ImageScale {
    float scale = 1.0F;
    int zero = 0;
};

/// The scale of an image whose elements have the range; of finite ranges alone.
[[nodiscard]] ImageScale scale_of_image(const spmm::Range& range, Word word) noexcept;

/// Whether integers can stand for an image of this range.
[[nodiscard]] bool fits_words(const spmm::Range& range) noexcept;

/// The range of an image.
[[nodiscard]] spmm::Range range_of_image(Isa isa, std::span<const float> x, int threads);

/// Writes the words of an image x [channels, pixels].
void make_words(const Plan& plan, Isa isa, const float* x, const ImageScale& scale,
                std::uint32_t* words, int threads);

/// Computes the outputs of the images by a plan of tiles. Where its lanes are images, of as many
/// for each tile: their words and their outputs lie at equal distances.
void convolve_tiles(const Plan& plan, Isa isa, std::span<const Image> images,
                    const spmm::Outputs& out, int threads);

/// The same by a depthwise plan.
void convolve_depthwise(const Plan& plan, std::span<const Image> images, const spmm::Outputs& out,
                        int threads);

}  // namespace tersor::conv
