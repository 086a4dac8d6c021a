// Depthwise convolutions channel by channel.
#include "conv/images.hpp"
#include "conv/store.hpp"
#include "support/scratch.hpp"
#include "tersor/parallel.hpp"

namespace tersor::conv {

void convolve_depthwise(const Plan& plan, std::span<const Image> images, const spmm::Outputs& out,
                        int threads) {
    const Shape& shape = plan.shape;
    const DepthwiseShape one{static_cast<std::int32_t>(shape.geometry.input.h),
                             static_cast<std::int32_t>(shape.geometry.input.w),
                             static_cast<std::int32_t>(shape.output.h),
                             static_cast<std::int32_t>(shape.output.w),
                             static_cast<std::int32_t>(shape.geometry.padding.h),
                             static_cast<std::int32_t>(shape.geometry.padding.w)};
    const std::size_t pixels = shape.output_pixels();
    const std::size_t multiplier = shape.group_filters();
    parallel_for(
        images.size() * shape.filters, 1, threads, [&](std::size_t begin, std::size_t end) {
            const support::Scratch<float> wide(out.y_type == FloatType::float32 ? 0 : pixels);
            for (std::size_t i = begin; i < end; ++i) {
                const Image& image = images[i / shape.filters];
                const std::size_t f = i % shape.filters;
                const std::size_t at = image.output + f * pixels;
                Finishing finishing{1.0F, out.bias.empty() ? 0.0F : out.bias[f], -infinity,
                                    infinity};
                if (clamps(out)) add_clamp(out, finishing);
                float* const y = out.y_type == FloatType::float32 ? out.products + at : wide.data();
                const auto* x = reinterpret_cast<const float*>(image.words);
                plan.depthwise(one, x + f / multiplier * shape.input_pixels(),
                               plan.taps.data() + f * shape.taps(), finishing, y);
                if (!clamps(out)) out.apply_epilogue_at(y, at, pixels);
            }
        });
}

}  // namespace tersor::conv
