// Direct sparse convolution. The padded image is split into stride.h x stride.w phase planes, so
// that each weight reads its activations for neighbouring outputs from neighbouring addresses, at
// one constant distance from the output's own position. A convolution is then the panel product
// with other offsets. Columns past the output's width are computed and dropped. Phases, and pixels,
// that no tap of the kernel reads are not stored.
#include <algorithm>
#include <cstdint>
#include <numeric>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

#include "spmm/csr16/kernels.hpp"
#include "spmm/epilogue/outputs.hpp"
#include "spmm/packed_matrix.hpp"
#include "support/checked_size.hpp"
#include "tersor/conv.hpp"
#include "tersor/parallel.hpp"

namespace tersor::conv {
namespace {

using spmm::csr16::panel_lanes;

void check(bool good, const char* message) {
    if (!good) throw std::invalid_argument(std::string("convolution: ") + message);
}

/// A product of sizes; throws std::invalid_argument where memory cannot hold so much.
template <class... Sizes>
std::size_t product(const char* message, Sizes... sizes) {
    const auto size = support::checked_product(sizes...);
    if (!size.has_value()) throw std::invalid_argument(std::string("convolution: ") + message);
    return *size;
}

/// One axis of the phase planes of an image. The padded pixel p lies in phase p mod stride, at
/// place p / stride. Tap k of the kernel reads the pixel dilation * k for the first output, and for
/// the others the places that follow.
class Axis {
public:
    Axis(std::uint32_t input, std::uint32_t kernel, std::uint32_t stride, std::uint32_t padding,
         std::uint32_t dilation, std::uint32_t outputs)
        : input_(input), stride_(stride), padding_(padding) {
        // The phases of taps that follow each other come again in the same order.
        const std::uint32_t distinct = std::min(kernel, stride / std::gcd(stride, dilation));
        for (std::uint32_t k = 0; k < kernel; ++k) {
            const std::uint64_t pixel = std::uint64_t{dilation} * k;
            if (k < distinct) phases_.push_back(pixel % stride);
            taps_.push_back({k % distinct, pixel / stride});
        }
        places_ = outputs + taps_.back().place;
    }

    /// Where a pixel lies: the number of its phase among those that are stored, and its place.
    struct Position {
        std::size_t phase;
        std::uint64_t place;
    };

    [[nodiscard]] std::size_t phases() const noexcept { return phases_.size(); }
    [[nodiscard]] std::uint64_t places() const noexcept { return places_; }
    /// By tap.
    [[nodiscard]] std::span<const Position> taps() const noexcept { return taps_; }

    /// Calls `visit(pixel, position)` for each pixel of the image that some tap reads.
    template <class Visit>
    void for_each_pixel(const Visit& visit) const {
        for (std::size_t phase = 0; phase < phases_.size(); ++phase) {
            // The first place of this phase that is not padding.
            const std::uint64_t before =
                padding_ > phases_[phase] ? padding_ - phases_[phase] : std::uint64_t{0};
            for (std::uint64_t place = (before + stride_ - 1) / stride_; place < places_; ++place) {
                const std::uint64_t pixel = phases_[phase] + place * stride_ - padding_;
                if (pixel >= input_) break;
                visit(static_cast<std::size_t>(pixel), Position{phase, place});
            }
        }
    }

private:
    std::uint64_t input_;
    std::uint64_t stride_;
    std::uint64_t padding_;
    std::uint64_t places_ = 0;
    std::vector<std::uint64_t> phases_;
    std::vector<Position> taps_;
};

/// A pixel of an axis that is stored, and its distance from the start of the plane.
struct Move {
    std::size_t from;
    std::size_t to;
};

/// The phase planes of one image: [channel][phase h][phase w][height][width].
class Planes {
public:
    Planes(const Geometry& g, Pair output)
        : h_(g.input.h, g.kernel.h, g.stride.h, g.padding.h, g.dilation.h, output.h),
          w_(g.input.w, g.kernel.w, g.stride.w, g.padding.w, g.dilation.w, output.w) {
        channel_size_ = product("the padded image is larger than memory", h_.phases(), w_.phases(),
                                h_.places(), w_.places());
        h_.for_each_pixel([&](std::size_t pixel, Axis::Position at) {
            rows_.push_back({pixel * g.input.w, offset(at, {0, 0})});
        });
        w_.for_each_pixel([&](std::size_t pixel, Axis::Position at) {
            columns_.push_back({pixel, offset({0, 0}, at)});
        });
    }

    [[nodiscard]] std::size_t channel_size() const noexcept { return channel_size_; }
    [[nodiscard]] std::size_t width() const noexcept {
        return static_cast<std::size_t>(w_.places());
    }

    /// For each column (channel, kernel row, kernel column) of the filter matrix: the distance from
    /// an output's position to the activation that the weight reads.
    [[nodiscard]] std::vector<std::size_t> column_offsets(std::size_t channels) const {
        std::vector<std::size_t> offsets;
        offsets.reserve(channels * h_.taps().size() * w_.taps().size());
        for (std::size_t c = 0; c < channels; ++c) {
            for (const Axis::Position h : h_.taps()) {
                for (const Axis::Position w : w_.taps()) {
                    offsets.push_back(c * channel_size_ + offset(h, w));
                }
            }
        }
        return offsets;
    }

    /// Writes a channel of an image; what is padding is left as it is.
    void fill_channel(const float* image, float* channel) const noexcept {
        for (const Move row : rows_) {
            const float* from = image + row.from;
            float* to = channel + row.to;
            for (const Move column : columns_) to[column.to] = from[column.from];
        }
    }

private:
    [[nodiscard]] std::size_t offset(Axis::Position h, Axis::Position w) const noexcept {
        const std::size_t phase = h.phase * w_.phases() + w.phase;
        return static_cast<std::size_t>((phase * h_.places() + h.place) * w_.places() + w.place);
    }

    Axis h_;
    Axis w_;
    std::size_t channel_size_ = 0;  // all phases of a channel
    std::vector<Move> rows_;
    std::vector<Move> columns_;
};

std::size_t ceil_div(std::size_t a, std::size_t b) noexcept { return (a + b - 1) / b; }

}  // namespace

Pair output_size(const Geometry& g) {
    check(g.in_channels > 0 && g.groups > 0 && g.in_channels % g.groups == 0,
          "groups must divide in_channels");
    const auto axis = [](std::uint32_t input, std::uint32_t kernel, std::uint32_t stride,
                         std::uint32_t padding, std::uint32_t dilation) {
        check(kernel > 0 && stride > 0 && dilation > 0,
              "kernel, stride and dilation are at least 1");
        const std::uint64_t padded = std::uint64_t{input} + 2 * std::uint64_t{padding};
        const std::uint64_t reach = std::uint64_t{dilation} * (kernel - 1) + 1;
        check(reach <= padded, "the kernel is larger than the padded input");
        const std::uint64_t size = (padded - reach) / stride + 1;
        check(size <= UINT32_MAX, "the output has more than 2^32 - 1 rows or columns");
        return static_cast<std::uint32_t>(size);
    };
    return {axis(g.input.h, g.kernel.h, g.stride.h, g.padding.h, g.dilation.h),
            axis(g.input.w, g.kernel.w, g.stride.w, g.padding.w, g.dilation.w)};
}

void convolve(const PackedMatrix& filters, const Geometry& g, FloatView x, std::size_t batch,
              const Epilogue& epilogue, FloatSpan y, Precision /*every class is met*/,
              int threads) {
    const Pair output = output_size(g);
    const std::size_t out_channels = filters.rows();
    const std::size_t image_size =
        product("x is larger than memory", g.in_channels, g.input.h, g.input.w);
    const std::size_t output_pixels = product("y is larger than memory", output.h, output.w);
    check(support::checked_product(g.in_channels / g.groups, g.kernel.h, g.kernel.w) ==
              filters.cols(),
          "the filter matrix does not have in_channels / groups * kernel columns");
    check(out_channels % g.groups == 0, "groups must divide the number of filters");
    check(support::checked_product(batch, image_size) == x.size,
          "x does not have batch * channels * height * width elements");
    check(support::checked_product(batch, out_channels, output_pixels) == y.size,
          "y does not have the output's size");
    check(epilogue.bias.size == 0 || epilogue.bias.size == out_channels,
          "bias does not have one value per filter");
    check(epilogue.residual.size == 0 || epilogue.residual.size == y.size,
          "the residual does not have the output's size");
    if (batch == 0 || out_channels == 0) return;

    const PackedMatrix::Layout& layout = filters.with_factors_inside().layout();
    const spmm::Csr16& csr16 = layout.csr16();
    const spmm::csr16::Kernels& kernel = spmm::csr16::kernels(layout.isa);
    std::vector<float> wide_bias(epilogue.bias.type == FloatType::float32 ? 0 : out_channels);
    const spmm::Outputs out =
        spmm::make_outputs(layout.isa, out_channels * output_pixels, epilogue, wide_bias, y);
    const Planes planes(g, output);
    const std::vector<std::size_t> offsets = planes.column_offsets(g.in_channels / g.groups);
    // Positions from the first output to the last, whole panels of them.
    const std::size_t positions = (std::size_t{output.h} - 1) * planes.width() + output.w;
    const std::size_t stride = ceil_div(positions, panel_lanes) * panel_lanes;
    const std::size_t planes_size =
        product("the padded image is larger than memory", g.in_channels, planes.channel_size());
    support::AlignedBuffer<float> image(planes_size + panel_lanes);
    support::AlignedBuffer<float> wide_image(x.type == FloatType::float32 ? 0 : image_size);
    support::AlignedBuffer<float> sums(
        product("the sums are larger than memory", out_channels, stride));
    const std::size_t group_filters = out_channels / g.groups;
    const std::size_t group_size = g.in_channels / g.groups * planes.channel_size();

    for (std::size_t n = 0; n < batch; ++n) {
        const float* source =
            spmm::as_float(spmm::part_of(x, n * image_size, image_size), wide_image).data();
        parallel_for(g.in_channels, 1, threads, [&](std::size_t begin, std::size_t end) {
            for (std::size_t c = begin; c < end; ++c) {
                planes.fill_channel(source + c * g.input.h * g.input.w,
                                    image.data() + c * planes.channel_size());
            }
        });
        parallel_for(out_channels, 1, threads, [&](std::size_t begin, std::size_t end) {
            for (std::size_t o = begin; o < end; ++o) {
                float* sum = sums.data() + o * stride;
                std::fill_n(sum, stride, out.bias.empty() ? 0.0F : out.bias[o]);
                const float* group = image.data() + o / group_filters * group_size;
                for (std::size_t b = 0; b < csr16.blocks.size(); ++b) {
                    for (std::size_t p = 0; p < stride; p += panel_lanes) {
                        const spmm::BlockView block = layout.view(csr16, b);
                        kernel.multiply_panel(block, group + p, offsets.data() + block.first_column,
                                              sums.data() + p, stride, o, o + 1);
                    }
                }
                const std::size_t target = (n * out_channels + o) * output_pixels;
                for (std::size_t h = 0; h < output.h; ++h) {
                    out.apply_epilogue_at(sum + h * planes.width(), target + h * output.w,
                                          output.w);
                }
            }
        });
    }
}

void convolve(const PackedMatrix& filters, const Geometry& geometry, std::span<const float> x,
              std::size_t batch, std::span<const float> bias, std::span<float> y,
              Precision precision, int threads) {
    convolve(filters, geometry, FloatView(x), batch, Epilogue{bias, Activation::none, {}},
             FloatSpan(y), precision, threads);
}

}  // namespace tersor::conv
