// Direct sparse convolution. The padded image is split into stride.h x stride.w phase planes, so
// that each weight reads its activations for neighbouring outputs from neighbouring addresses, at
// one constant distance from the output's own position. A convolution is then the panel product
// with other offsets. Columns past the output's width are computed and dropped.
#include <algorithm>
#include <stdexcept>
#include <string>
#include <vector>

#include "spmm/kernels.hpp"
#include "spmm/layout.hpp"
#include "spmm/outputs.hpp"
#include "tersor/conv.hpp"
#include "tersor/parallel.hpp"

namespace tersor::conv {
namespace {

using spmm::panel_lanes;

/// The phase planes of one image: [channel][phase h][phase w][height][width].
struct Planes {
    std::size_t height = 0;
    std::size_t width = 0;
    std::size_t channel_size = 0;  // all phases of a channel
};

std::size_t ceil_div(std::size_t a, std::size_t b) noexcept { return (a + b - 1) / b; }

Planes planes_of(const Geometry& g) noexcept {
    Planes planes;
    planes.height = ceil_div(std::size_t{g.input.h} + 2 * std::size_t{g.padding.h}, g.stride.h);
    planes.width = ceil_div(std::size_t{g.input.w} + 2 * std::size_t{g.padding.w}, g.stride.w);
    planes.channel_size = planes.height * planes.width * g.stride.h * g.stride.w;
    return planes;
}

/// Where the padded pixel (h, w) of a channel lies in its phase planes.
std::size_t pixel_offset(const Geometry& g, const Planes& planes, std::size_t h,
                         std::size_t w) noexcept {
    const std::size_t phase = h % g.stride.h * g.stride.w + w % g.stride.w;
    return (phase * planes.height + h / g.stride.h) * planes.width + w / g.stride.w;
}

/// For each column (channel, kernel row, kernel column) of the filter matrix: the distance from an
/// output's position to the activation that the weight reads.
std::vector<std::size_t> column_offsets(const Geometry& g, const Planes& planes) {
    std::vector<std::size_t> offsets;
    for (std::size_t c = 0; c < g.in_channels / g.groups; ++c) {
        for (std::size_t h = 0; h < g.kernel.h; ++h) {
            for (std::size_t w = 0; w < g.kernel.w; ++w) {
                offsets.push_back(c * planes.channel_size +
                                  pixel_offset(g, planes, h * g.dilation.h, w * g.dilation.w));
            }
        }
    }
    return offsets;
}

void fill_planes(const Geometry& g, const Planes& planes, const float* image, float* out,
                 std::size_t channel_begin, std::size_t channel_end) noexcept {
    for (std::size_t c = channel_begin; c < channel_end; ++c) {
        float* channel = out + c * planes.channel_size;
        for (std::size_t h = 0; h < g.input.h; ++h) {
            const float* row = image + (c * g.input.h + h) * g.input.w;
            for (std::size_t w = 0; w < g.input.w; ++w) {
                channel[pixel_offset(g, planes, h + g.padding.h, w + g.padding.w)] = row[w];
            }
        }
    }
}

void check(bool good, const char* message) {
    if (!good) throw std::invalid_argument(std::string("convolution: ") + message);
}

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
        return static_cast<std::uint32_t>((padded - reach) / stride + 1);
    };
    return {axis(g.input.h, g.kernel.h, g.stride.h, g.padding.h, g.dilation.h),
            axis(g.input.w, g.kernel.w, g.stride.w, g.padding.w, g.dilation.w)};
}

void convolve(const PackedMatrix& filters, const Geometry& g, FloatView x, std::size_t batch,
              const Epilogue& epilogue, FloatSpan y, Precision /*every class is met*/,
              int threads) {
    const Pair output = output_size(g);
    const std::size_t out_channels = filters.rows();
    const std::size_t image_size = std::size_t{g.in_channels} * g.input.h * g.input.w;
    const std::size_t output_pixels = std::size_t{output.h} * output.w;
    check(filters.cols() == std::uint64_t{g.in_channels / g.groups} * g.kernel.h * g.kernel.w,
          "the filter matrix does not have in_channels / groups * kernel columns");
    check(out_channels % g.groups == 0, "groups must divide the number of filters");
    check(x.size == batch * image_size,
          "x does not have batch * channels * height * width elements");
    check(y.size == batch * out_channels * output_pixels, "y does not have the output's size");
    check(epilogue.bias.size == 0 || epilogue.bias.size == out_channels,
          "bias does not have one value per filter");
    check(epilogue.residual.size == 0 || epilogue.residual.size == y.size,
          "the residual does not have the output's size");
    if (batch == 0 || out_channels == 0) return;

    const PackedMatrix::Layout& layout = filters.layout();
    const spmm::Rows16& rows16 = layout.rows16();
    const spmm::Kernels& kernel = spmm::kernels(layout.isa);
    std::vector<float> wide_bias(epilogue.bias.type == FloatType::float32 ? 0 : out_channels);
    const spmm::Outputs out =
        spmm::make_outputs(kernel, out_channels * output_pixels, epilogue, wide_bias, y);
    const Planes planes = planes_of(g);
    const std::vector<std::size_t> offsets = column_offsets(g, planes);
    // Positions from the first output to the last, whole panels of them.
    const std::size_t positions = (std::size_t{output.h} - 1) * planes.width + output.w;
    const std::size_t stride = ceil_div(positions, panel_lanes) * panel_lanes;
    support::AlignedBuffer<float> image(g.in_channels * planes.channel_size + panel_lanes);
    support::AlignedBuffer<float> wide_image(x.type == FloatType::float32 ? 0 : image_size);
    support::AlignedBuffer<float> sums(out_channels * stride);
    const std::size_t group_filters = out_channels / g.groups;
    const std::size_t group_size = g.in_channels / g.groups * planes.channel_size;

    for (std::size_t n = 0; n < batch; ++n) {
        const float* source =
            spmm::as_float(spmm::part_of(x, n * image_size, image_size), wide_image).data();
        parallel_for(g.in_channels, 1, threads, [&](std::size_t begin, std::size_t end) {
            fill_planes(g, planes, source, image.data(), begin, end);
        });
        parallel_for(out_channels, 1, threads, [&](std::size_t begin, std::size_t end) {
            for (std::size_t o = begin; o < end; ++o) {
                float* sum = sums.data() + o * stride;
                std::fill_n(sum, stride, out.bias.empty() ? 0.0F : out.bias[o]);
                const float* group = image.data() + o / group_filters * group_size;
                for (std::size_t b = 0; b < rows16.blocks.size(); ++b) {
                    for (std::size_t p = 0; p < stride; p += panel_lanes) {
                        kernel.multiply_panel(layout.view(rows16, b), group + p,
                                              offsets.data() + b * spmm::block_columns,
                                              sums.data() + p, stride, o, o + 1);
                    }
                }
                const std::size_t target = (n * out_channels + o) * output_pixels;
                for (std::size_t h = 0; h < output.h; ++h) {
                    out.finish_at(sum + h * planes.width, target + h * output.w, output.w);
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
