// How a convolution is cut into tiles, and its filters into the parts that read one patch.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "conv/kernels.hpp"
#include "conv/layout.hpp"
#include "support/scratch.hpp"
#include "tersor/conv.hpp"

namespace tersor::conv {

/// Words of an image, or of its outputs, that the second cache has room for.
inline constexpr std::size_t words_in_cache = 256 * 1024;

/// What a convolution computes, with sizes that follow from each other in one place.
struct Shape {
    Geometry geometry;  // a 1 x 1 kernel without stride sees an image of one row
    Pair output;
    std::size_t filters = 0;

    [[nodiscard]] std::size_t taps() const noexcept {
        return std::size_t{geometry.kernel.h} * geometry.kernel.w;
    }
    [[nodiscard]] std::size_t input_pixels() const noexcept {
        return std::size_t{geometry.input.h} * geometry.input.w;
    }
    [[nodiscard]] std::size_t output_pixels() const noexcept {
        return std::size_t{output.h} * output.w;
    }
    [[nodiscard]] std::size_t group_channels() const noexcept {
        return geometry.in_channels / geometry.groups;
    }
    [[nodiscard]] std::size_t group_filters() const noexcept { return filters / geometry.groups; }
};

/// The shape of a convolution; throws where `output_size` does.
[[nodiscard]] Shape shape_of(const Geometry& geometry, std::size_t filters);

/// A cut of a convolution: see layout.hpp.
struct Tiling {
    Cut cut = Cut::rows;
    std::size_t rows = 1;     // of outputs in a tile
    std::size_t columns = 1;  // vectors in each of them, or of a flat tile
    std::size_t tiles_down = 1;
    std::size_t tiles_across = 1;
    Step step = Step::one;

    /// What a tile reads of the input, relative to the first, in an order in which what a tap reads
    /// for the outputs follows each other: rows, or the columns of a row where lanes are images.
    std::vector<std::uint64_t> lines_read;
    std::vector<std::uint32_t> tap_vectors;  // by tap: where its vectors begin in a slice's patch

    std::size_t slice_taps = 1;  // of a patch; less than all where the kernel is very large
    std::size_t slices = 1;
    std::size_t slice_vectors = 1;  // of one channel's patch
    std::size_t vectors = 1;        // of one channel, in all slices
    std::size_t block_words = 1;    // channels of words that share a patch
    std::size_t channel_blocks = 1;

    [[nodiscard]] std::size_t tile_vectors() const noexcept { return rows * columns; }
    [[nodiscard]] std::size_t tiles() const noexcept { return tiles_down * tiles_across; }
    [[nodiscard]] std::size_t blocks() const noexcept { return channel_blocks * slices; }
    [[nodiscard]] std::size_t patch_words() const noexcept {
        return block_words * slice_vectors * lanes;
    }
};

/// The tiling that costs least by a model of the kernels, where `density` of the words of the
/// filters are not 0. With `images`, for as many as there are lanes: one whose lanes are these may
/// be the best.
[[nodiscard]] Tiling choose_tiling(const Shape& shape, Word word, double density, Isa isa,
                                   bool images);

/// Words of an image that a group of channels has, and all groups.
[[nodiscard]] std::size_t words_of_group(const Shape& shape, Word word) noexcept;
[[nodiscard]] std::size_t words_of_image(const Shape& shape, Word word) noexcept;

/// A tile as the kernels see it: where its patch comes from and where its outputs belong.
class TileView {
public:
    /// `image_words`: from one image to the next, where lanes are images.
    TileView(const Shape& shape, const Tiling& tiling, std::size_t image_words);

    /// Moves to a tile; throws nothing.
    void describe(std::size_t tile) noexcept;

    [[nodiscard]] const VectorSource* sources() const noexcept { return sources_.data(); }
    [[nodiscard]] const IndexedSource* indexed() const noexcept { return indexed_.data(); }
    [[nodiscard]] const VectorTarget* targets() const noexcept { return targets_.data(); }

private:
    void describe_rows(std::size_t tile) noexcept;
    void describe_flat(std::size_t tile) noexcept;
    void describe_images(std::size_t tile) noexcept;

    const Shape& shape_;
    const Tiling& tiling_;
    std::size_t image_words_;
    support::Scratch<VectorSource> sources_;
    support::Scratch<IndexedSource> indexed_;
    support::Scratch<VectorTarget> targets_;
};

}  // namespace tersor::conv
