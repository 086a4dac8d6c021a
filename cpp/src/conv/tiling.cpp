#include "conv/tiling.hpp"

#include <algorithm>
#include <limits>
#include <stdexcept>
#include <utility>

namespace tersor::conv {
namespace {

std::size_t ceil_div(std::size_t a, std::size_t b) noexcept { return (a + b - 1) / b; }

/// What a level's kernels take, in cycles; measured on Ice Lake.
struct Costs {
    double per_entry;         // beside what each vector takes
    double per_vector;        // a multiply-add with its load
    double per_list;          // a filter's entries of one patch: call, ends of loops
    double per_sum;           // a vector of sums, read and written
    double per_run;           // a run of neighbours of an image, or outputs, that is in no cache
    double per_scatter;       // a vector of outputs whose lanes are images
    double fill[3];           // a vector of a patch, by Step
    std::size_t patch_bytes;  // what the first cache has room for
};
constexpr Costs wide_costs{1.0, 0.5, 30.0, 1.5, 15.0, 22.0, {2.5, 6.0, 16.0}, 44 * 1024};
constexpr Costs narrow_costs{1.0, 1.0, 30.0, 3.0, 15.0, 40.0, {6.0, 16.0, 24.0}, 28 * 1024};

const Costs& costs_of(Isa isa) noexcept {
    return isa == Isa::avx512 || isa == Isa::amx ? wide_costs : narrow_costs;
}

/// Blocks of channels as large as the first cache allows, all about equal.
void choose_blocks(Tiling& tiling, std::size_t channels, std::size_t patch_vectors) {
    const std::size_t most = std::max<std::size_t>(patch_vectors / tiling.slice_vectors, 1);
    tiling.channel_blocks = ceil_div(channels, most);
    tiling.block_words = ceil_div(channels, tiling.channel_blocks);
    tiling.channel_blocks = ceil_div(channels, tiling.block_words);
}

/// What `outputs` neighbours along an axis read, relative to the first, in the order in which those
/// that are one stride apart follow each other: each tap then reads a run of them.
std::vector<std::uint64_t> lines_of(std::size_t outputs, std::uint32_t kernel, std::uint32_t stride,
                                    std::uint32_t dilation) {
    std::vector<std::uint64_t> all;
    for (std::uint64_t k = 0; k < kernel; ++k) {
        for (std::uint64_t i = 0; i < outputs; ++i) all.push_back(k * dilation + i * stride);
    }
    std::ranges::sort(all, {},
                      [&](std::uint64_t line) { return std::pair(line % stride, line / stride); });
    all.erase(std::unique(all.begin(), all.end()), all.end());
    return all;
}

/// Where what a tap reads begins among the lines.
std::size_t place_of(const std::vector<std::uint64_t>& lines, std::uint64_t line) noexcept {
    return static_cast<std::size_t>(std::ranges::find(lines, line) - lines.begin());
}

Tiling tile_rows(const Shape& shape, std::size_t rows, std::size_t columns) {
    const Geometry& g = shape.geometry;
    Tiling tiling;
    tiling.rows = rows;
    tiling.columns = columns;
    tiling.tiles_down = ceil_div(shape.output.h, rows);
    tiling.tiles_across = ceil_div(shape.output.w, columns * lanes);
    tiling.step = g.stride.w == 1 ? Step::one : g.stride.w == 2 ? Step::two : Step::indexed;
    tiling.lines_read = lines_of(rows, g.kernel.h, g.stride.h, g.dilation.h);
    for (std::uint32_t ky = 0; ky < g.kernel.h; ++ky) {
        const std::size_t row = place_of(tiling.lines_read, std::uint64_t{ky} * g.dilation.h);
        for (std::uint32_t kx = 0; kx < g.kernel.w; ++kx) {
            const std::size_t before = kx * tiling.lines_read.size() + row;
            tiling.tap_vectors.push_back(static_cast<std::uint32_t>(before * columns));
        }
    }
    tiling.slice_taps = shape.taps();
    tiling.slice_vectors = g.kernel.w * tiling.lines_read.size() * columns;
    tiling.vectors = tiling.slice_vectors;
    return tiling;
}

Tiling tile_images(const Shape& shape, std::size_t columns) {
    const Geometry& g = shape.geometry;
    Tiling tiling;
    tiling.cut = Cut::images;
    tiling.columns = columns;
    tiling.tiles_down = shape.output.h;
    tiling.tiles_across = ceil_div(shape.output.w, columns);
    tiling.step = Step::indexed;
    tiling.lines_read = lines_of(columns, g.kernel.w, g.stride.w, g.dilation.w);
    for (std::uint32_t ky = 0; ky < g.kernel.h; ++ky) {
        for (std::uint32_t kx = 0; kx < g.kernel.w; ++kx) {
            const std::size_t column =
                place_of(tiling.lines_read, std::uint64_t{kx} * g.dilation.w);
            tiling.tap_vectors.push_back(
                static_cast<std::uint32_t>(ky * tiling.lines_read.size() + column));
        }
    }
    tiling.slice_taps = shape.taps();
    tiling.slice_vectors = g.kernel.h * tiling.lines_read.size();
    tiling.vectors = tiling.slice_vectors;
    return tiling;
}

/// Outputs in one line read inputs that follow each other, but for padding.
bool keeps_width(const Shape& shape) noexcept {
    const Geometry& g = shape.geometry;
    return g.stride.h == 1 && g.stride.w == 1 && shape.output.w == g.input.w;
}

Tiling tile_flat(const Shape& shape, std::size_t vectors, std::size_t patch_vectors) {
    Tiling tiling;
    tiling.cut = Cut::flat;
    tiling.columns = vectors;
    tiling.tiles_across = ceil_div(shape.output_pixels(), vectors * lanes);
    tiling.step = keeps_width(shape) ? Step::one : Step::indexed;
    tiling.slice_taps = std::min(shape.taps(), std::max<std::size_t>(patch_vectors / vectors, 1));
    tiling.slices = ceil_div(shape.taps(), tiling.slice_taps);
    tiling.slice_vectors = tiling.slice_taps * vectors;
    tiling.vectors = shape.taps() * vectors;
    for (std::size_t tap = 0; tap < shape.taps(); ++tap) {
        const std::size_t in_slice = tap % tiling.slice_taps;
        tiling.tap_vectors.push_back(static_cast<std::uint32_t>(in_slice * vectors));
    }
    return tiling;
}

/// Runs of neighbours that a tile reads and writes, of an image and outputs that are in no cache.
double distant_runs(const Tiling& tiling, const Shape& shape, Word word) noexcept {
    const std::size_t image = words_of_image(shape, word);
    const std::size_t read =
        tiling.cut == Cut::flat ? shape.geometry.kernel.h : tiling.lines_read.size();
    const std::size_t reads =
        image > words_in_cache ? image / std::max<std::size_t>(shape.input_pixels(), 1) * read : 0;
    const std::size_t outputs = shape.filters * shape.output_pixels();
    const std::size_t writes = outputs > words_in_cache ? shape.filters * tiling.rows : 0;
    return static_cast<double>(reads + writes);
}

double cost_of(const Tiling& tiling, const Shape& shape, Word word, double density,
               const Costs& costs) {
    const std::size_t channels = words_of_group(shape, word);
    const auto groups = static_cast<double>(shape.geometry.groups);
    const auto vectors = static_cast<double>(tiling.tile_vectors());
    const double lists = static_cast<double>(shape.filters * tiling.blocks());
    const double entries = static_cast<double>(shape.filters * channels * shape.taps()) * density;
    const double filled = groups * static_cast<double>(channels * tiling.vectors);
    const bool images = tiling.cut == Cut::images;
    const double scattered = images ? static_cast<double>(shape.filters) * vectors : 0.0;
    // For one image.
    return static_cast<double>(tiling.tiles()) / (images ? static_cast<double>(lanes) : 1.0) *
           (scattered * costs.per_scatter + distant_runs(tiling, shape, word) * costs.per_run +
            entries * (costs.per_entry + vectors * costs.per_vector) +
            lists * (costs.per_list + vectors * costs.per_sum) +
            filled * costs.fill[static_cast<std::size_t>(tiling.step)]);
}

}  // namespace

Shape shape_of(const Geometry& geometry, std::size_t filters) {
    Shape shape{geometry, output_size(geometry), filters};
    Geometry& g = shape.geometry;
    if (g.kernel.h == 1 && g.kernel.w == 1 && shape.output.h == g.input.h &&
        shape.output.w == g.input.w && g.stride.h == 1 && g.stride.w == 1) {
        const std::uint64_t pixels = std::uint64_t{g.input.h} * g.input.w;
        if (pixels <= static_cast<std::uint64_t>(INT32_MAX)) {
            g.input = shape.output = {1, static_cast<std::uint32_t>(pixels)};
        }
    }
    return shape;
}

std::size_t words_of_group(const Shape& shape, Word word) noexcept {
    return ceil_div(shape.group_channels(), channels_of(word));
}

std::size_t words_of_image(const Shape& shape, Word word) noexcept {
    return shape.geometry.groups * words_of_group(shape, word) * shape.input_pixels();
}

Tiling choose_tiling(const Shape& shape, Word word, double density, Isa isa, bool images) {
    const Costs& costs = costs_of(isa);
    const auto& sums = kernels(isa).sums[static_cast<std::size_t>(word)];
    const std::size_t channels = words_of_group(shape, word);
    const std::size_t patch_vectors = costs.patch_bytes / vector_bytes;
    Tiling best;
    double least = std::numeric_limits<double>::infinity();
    const auto consider = [&](Tiling tiling) {
        choose_blocks(tiling, channels, patch_vectors);
        const double cost = cost_of(tiling, shape, word, density, costs);
        if (cost < least) {
            least = cost;
            best = std::move(tiling);
        }
    };
    for (std::size_t vectors = 1; vectors <= most_vectors; ++vectors) {
        if (sums[vectors] == nullptr) continue;
        consider(tile_flat(shape, vectors, patch_vectors));
        if (images && vectors <= shape.output.w) {
            Tiling tiling = tile_images(shape, vectors);
            if (tiling.slice_vectors <= patch_vectors) consider(std::move(tiling));
        }
        for (std::size_t columns = 1; columns <= ceil_div(shape.output.w, lanes); ++columns) {
            if (vectors % columns != 0) continue;
            const std::size_t rows = vectors / columns;
            if (rows > shape.output.h) continue;
            Tiling tiling = tile_rows(shape, rows, columns);
            if (tiling.slice_vectors <= patch_vectors) consider(std::move(tiling));
        }
    }
    return best;
}

TileView::TileView(const Shape& shape, const Tiling& tiling, std::size_t image_words)
    : shape_(shape),
      tiling_(tiling),
      image_words_(image_words),
      sources_(tiling.step == Step::indexed ? 0 : tiling.vectors),
      indexed_(tiling.step == Step::indexed ? tiling.vectors : 0),
      targets_(tiling.tile_vectors()) {}

void TileView::describe(std::size_t tile) noexcept {
    switch (tiling_.cut) {
        case Cut::rows: return describe_rows(tile);
        case Cut::flat: return describe_flat(tile);
        case Cut::images: break;
    }
    describe_images(tile);
}

void TileView::describe_images(std::size_t tile) noexcept {
    const Geometry& g = shape_.geometry;
    const std::int64_t width = g.input.w;
    const std::size_t row = tile / tiling_.tiles_across;
    const std::size_t column = tile % tiling_.tiles_across * tiling_.columns;
    targets_[0] = {static_cast<std::int32_t>(row * shape_.output.w + column),
                   static_cast<std::uint32_t>(
                       std::min<std::size_t>(tiling_.columns, shape_.output.w - column))};
    std::size_t v = 0;
    for (std::uint32_t ky = 0; ky < g.kernel.h; ++ky) {
        const std::int64_t y = static_cast<std::int64_t>(std::uint64_t{row} * g.stride.h) +
                               std::int64_t{ky} * g.dilation.h - g.padding.h;
        for (const std::uint64_t right : tiling_.lines_read) {
            const std::int64_t x =
                static_cast<std::int64_t>(std::uint64_t{column} * g.stride.w + right) - g.padding.w;
            const bool read = y >= 0 && y < g.input.h && x >= 0 && x < width;
            for (std::size_t lane = 0; lane < lanes; ++lane) {
                indexed_[v].lane[lane] =
                    read ? static_cast<std::int32_t>(
                               static_cast<std::int64_t>(lane * image_words_) + y * width + x)
                         : -1;
            }
            ++v;
        }
    }
}

void TileView::describe_rows(std::size_t tile) noexcept {
    const Geometry& g = shape_.geometry;
    const std::int64_t width = g.input.w;
    const std::size_t first_row = tile / tiling_.tiles_across * tiling_.rows;
    const std::size_t first_column = tile % tiling_.tiles_across * tiling_.columns * lanes;
    std::size_t v = 0;
    for (std::uint32_t kx = 0; kx < g.kernel.w; ++kx) {
        for (const std::uint64_t below : tiling_.lines_read) {
            const std::int64_t row =
                static_cast<std::int64_t>(std::uint64_t{first_row} * g.stride.h + below) -
                g.padding.h;
            const bool inside = row >= 0 && row < g.input.h;
            for (std::size_t z = 0; z < tiling_.columns; ++z, ++v) {
                const std::int64_t column =
                    static_cast<std::int64_t>(std::uint64_t{first_column + z * lanes} *
                                              g.stride.w) +
                    std::int64_t{kx} * g.dilation.w - g.padding.w;
                VectorSource source;
                for (std::uint32_t lane = 0; lane < lanes; ++lane) {
                    const std::int64_t at = column + std::int64_t{lane} * g.stride.w;
                    const bool read = inside && at >= 0 && at < width;
                    if (read) source.mask |= 1U << lane;
                    if (tiling_.step == Step::indexed) {
                        indexed_[v].lane[lane] =
                            read ? static_cast<std::int32_t>(row * width + at) : -1;
                    }
                }
                if (tiling_.step == Step::indexed) continue;
                if (source.mask != 0)
                    source.first = static_cast<std::int32_t>(row * width + column);
                sources_[v] = source;
            }
        }
    }
    for (std::size_t t = 0; t < tiling_.tile_vectors(); ++t) {
        const std::size_t row = first_row + t / tiling_.columns;
        const std::size_t column = first_column + t % tiling_.columns * lanes;
        VectorTarget target;
        if (row < shape_.output.h && column < shape_.output.w) {
            target.first = static_cast<std::int32_t>(row * shape_.output.w + column);
            target.count = static_cast<std::uint32_t>(std::min(lanes, shape_.output.w - column));
        }
        targets_[t] = target;
    }
}

void TileView::describe_flat(std::size_t tile) noexcept {
    const Geometry& g = shape_.geometry;
    const std::int64_t width = g.input.w;
    const std::size_t pixels = shape_.output_pixels();
    for (std::size_t t = 0; t < tiling_.columns; ++t) {
        const std::size_t first = (tile * tiling_.columns + t) * lanes;
        targets_[t] = {
            static_cast<std::int32_t>(std::min(first, pixels)),
            static_cast<std::uint32_t>(first < pixels ? std::min(lanes, pixels - first) : 0)};
        std::int64_t row[lanes];
        std::int64_t column[lanes];
        for (std::size_t lane = 0; lane < lanes; ++lane) {
            const std::size_t pixel = first + lane;
            row[lane] =
                pixel < pixels
                    ? static_cast<std::int64_t>(pixel / shape_.output.w * g.stride.h) - g.padding.h
                    : std::numeric_limits<std::int64_t>::min() / 2;
            column[lane] =
                static_cast<std::int64_t>(std::uint64_t{pixel % shape_.output.w} * g.stride.w) -
                g.padding.w;
        }
        for (std::size_t tap = 0; tap < shape_.taps(); ++tap) {
            const std::int64_t down = std::int64_t{g.dilation.h} * (tap / g.kernel.w);
            const std::int64_t across = std::int64_t{g.dilation.w} * (tap % g.kernel.w);
            const std::size_t v = tap * tiling_.columns + t;
            VectorSource source;
            for (std::uint32_t lane = 0; lane < lanes; ++lane) {
                const std::int64_t y = row[lane] + down;
                const std::int64_t x = column[lane] + across;
                const bool read = y >= 0 && y < g.input.h && x >= 0 && x < width;
                const auto at = static_cast<std::int32_t>(read ? y * width + x : -1);
                if (tiling_.step == Step::indexed) {
                    indexed_[v].lane[lane] = at;
                } else if (read) {
                    source.mask |= 1U << lane;
                    source.first = at - static_cast<std::int32_t>(lane);
                }
            }
            if (tiling_.step != Step::indexed) sources_[v] = source;
        }
    }
}

}  // namespace tersor::conv
