// Direct sparse convolution: the checks, and the images a few at a time.
#include <algorithm>
#include <cstdint>
#include <memory>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

#include "conv/images.hpp"
#include "conv/plan.hpp"
#include "spmm/epilogue/outputs.hpp"
#include "spmm/packed_matrix.hpp"
#include "support/checked_size.hpp"
#include "support/scratch.hpp"
#include "tersor/conv.hpp"

namespace tersor::conv {
namespace {

/// Work below which a second thread costs more than it brings, in multiply-adds.
constexpr std::size_t parallel_from = 1U << 18;

/// Bytes of images that are converted at a time.
constexpr std::size_t converted_bytes = std::size_t{3} << 20;

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

/// The convolution of images in fp32.
class Batch {
public:
    Batch(const PackedMatrix& filters, const Geometry& geometry, Precision precision,
          const spmm::Outputs& out, std::size_t images, int threads)
        : filters_(filters),
          geometry_(geometry),
          precision_(precision),
          images_(images),
          plan_(plan_for(filters, geometry, precision, false)),
          out_(out),
          threads_(threads),
          image_size_(std::size_t{geometry.in_channels} * geometry.input.h * geometry.input.w),
          output_size_(filters.rows() * plan_->shape.output_pixels()) {}

    /// The images [first, first + count), x being the first of them.
    void run(const float* x, std::size_t first, std::size_t count) const {
        if (plan_->word == Word::floats) {
            std::vector<Image> images;
            images.reserve(count);
            for (std::size_t n = 0; n < count; ++n) images.push_back(as_floats(x, first, n));
            run(images, precision_);
            return;
        }
        const Isa isa = filters_.isa();
        const std::size_t size = words_of_image(plan_->shape, plan_->word);
        const support::Scratch<std::uint32_t> words(size * count);
        std::vector<Image> images;
        std::vector<Image> exact;
        for (std::size_t n = 0; n < count; ++n) {
            const float* const image = x + n * image_size_;
            const spmm::Range range = range_of_image(isa, {image, image_size_}, threads_);
            if (!fits_words(range)) {
                exact.push_back(as_floats(x, first, n));
                continue;
            }
            const ImageScale scale = scale_of_image(range, plan_->word);
            std::uint32_t* const to = words.data() + n * size;
            make_words(*plan_, isa, image, scale, to, threads_);
            images.push_back({to, 1.0F / scale.scale, scale.zero, (first + n) * output_size_});
        }
        run(images, precision_);
        run(exact, Precision::high);
    }

    /// Images to be run together, so that what is made of them is still in cache when it is read.
    [[nodiscard]] std::size_t images_at_once(bool converted) const noexcept {
        if (plan_->word == Word::floats && !converted) return images_;
        const std::size_t bytes = sizeof(float) * std::max<std::size_t>(image_size_, 1);
        const std::size_t several = std::min(images_, lanes);
        return std::clamp<std::size_t>(converted_bytes / bytes, several, images_);
    }

private:
    [[nodiscard]] Image as_floats(const float* x, std::size_t first, std::size_t n) const noexcept {
        return {reinterpret_cast<const std::uint32_t*>(x + n * image_size_), 1.0F, 0,
                (first + n) * output_size_};
    }

    /// Sets of neighbours in lanes, where that is faster, and each of the others alone.
    void run(std::span<const Image> images, Precision precision) const {
        const std::size_t in_lanes = images.size() / lanes * lanes;
        const bool neighbours = in_lanes > 0 && images.back().output - images.front().output ==
                                                    (images.size() - 1) * output_size_;
        if (plan_->depthwise != nullptr) return convolve_depthwise(*plan_, images, out_, threads_);
        if (neighbours) {
            const auto plan = plan_for(filters_, geometry_, precision, true);
            convolve_tiles(*plan, filters_.isa(), images.first(in_lanes), out_, threads_);
            images = images.subspan(in_lanes);
        }
        if (images.empty()) return;
        const auto plan = plan_for(filters_, geometry_, precision, false);
        convolve_tiles(*plan, filters_.isa(), images, out_, threads_);
    }

    const PackedMatrix& filters_;
    const Geometry& geometry_;
    Precision precision_;
    std::size_t images_;
    std::shared_ptr<const Plan> plan_;
    const spmm::Outputs& out_;
    int threads_;
    std::size_t image_size_;
    std::size_t output_size_;
};

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
              const Epilogue& epilogue, FloatSpan y, Precision precision, int threads) {
    const Pair output = output_size(g);
    const std::size_t out_channels = filters.rows();
    const std::size_t image_size =
        product("x is larger than memory", g.in_channels, g.input.h, g.input.w);
    const std::size_t output_pixels = product("y is larger than memory", output.h, output.w);
    check(std::uint64_t{g.input.h} * g.input.w <= static_cast<std::uint64_t>(INT32_MAX) &&
              output_pixels <= static_cast<std::uint64_t>(INT32_MAX),
          "an image or an output has more than 2^31 - 1 pixels");
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

    const std::size_t work = product("the work is larger than any machine's", output_pixels, batch,
                                     std::max<std::size_t>(filters.nonzeros(), 1));
    if (work < parallel_from) threads = 1;
    const PackedMatrix& scaled_filters = filters.with_factors_inside();
    std::vector<float> wide_bias(epilogue.bias.type == FloatType::float32 ? 0 : out_channels);
    const spmm::Outputs out =
        spmm::make_outputs(filters.isa(), out_channels * output_pixels, epilogue, wide_bias, y);
    const Batch images(scaled_filters, g, precision, out, batch, threads);
    const bool converted = x.type != FloatType::float32;
    const std::size_t group = images.images_at_once(converted);
    const support::Scratch<float> wide(converted ? group * image_size : 0);
    for (std::size_t n = 0; n < batch; n += group) {
        const std::size_t count = std::min(group, batch - n);
        const FloatView part = spmm::part_of(x, n * image_size, count * image_size);
        images.run(spmm::as_float(part, wide).data(), n, count);
    }
}

void convolve(const PackedMatrix& filters, const Geometry& geometry, std::span<const float> x,
              std::size_t batch, std::span<const float> bias, std::span<float> y,
              Precision precision, int threads) {
    convolve(filters, geometry, FloatView(x), batch, Epilogue{bias, Activation::none, {}},
             FloatSpan(y), precision, threads);
}

}  // namespace tersor::conv
