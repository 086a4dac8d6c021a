#include "conv/images.hpp"

#include <algorithm>
#include <cmath>

#include "spmm/activations/kernels.hpp"
#include "support/scratch.hpp"
#include "tersor/parallel.hpp"

namespace tersor::conv {
namespace {

/// Pixels below which an image is not worth a second thread's attention.
constexpr std::size_t parallel_elements = 1U << 15;

}  // namespace

ImageScale scale_of_image(const spmm::Range& range, Word word) noexcept {
    if (word == Word::pairs) {
        const float largest = std::max(-range.low, range.high);
        return {largest > 0.0F ? static_cast<float>(pair_scale) / largest : 1.0F, 0};
    }
    const float width = range.high - range.low;
    const float scale = width > 0.0F ? static_cast<float>(quad_scale) / width : 1.0F;
    return {scale, static_cast<int>(std::lrint(-range.low * scale))};
}

bool fits_words(const spmm::Range& range) noexcept {
    const float largest = std::max(-range.low, range.high);
    return range.finite && largest < 0x1p100F && (largest == 0.0F || largest > 0x1p-90F);
}

spmm::Range range_of_image(Isa isa, std::span<const float> x, int threads) {
    const spmm::activations::RangeOf range_of = spmm::activations::kernels(isa).range;
    const std::size_t parts =
        x.size() < parallel_elements ? 1 : static_cast<std::size_t>(std::max(threads, 1));
    const support::Scratch<spmm::Range> ranges(parts);
    const std::size_t share = (x.size() + parts - 1) / parts;
    parallel_for(parts, 1, threads, [&](std::size_t begin, std::size_t end) {
        for (std::size_t p = begin; p < end; ++p) {
            const std::size_t from = std::min(p * share, x.size());
            ranges[p] = range_of(x.data() + from, std::min(share, x.size() - from));
        }
    });
    spmm::Range all = ranges[0];
    for (std::size_t p = 1; p < parts; ++p) {
        all.low = std::min(all.low, ranges[p].low);
        all.high = std::max(all.high, ranges[p].high);
        all.finite = all.finite && ranges[p].finite;
    }
    return all;
}

void make_words(const Plan& plan, Isa isa, const float* x, const ImageScale& scale,
                std::uint32_t* words, int threads) {
    const Kernels& kernel = kernels(isa);
    const MakeWords make = plan.word == Word::pairs ? kernel.make_pairs : kernel.make_quads;
    const std::size_t plane = plan.shape.input_pixels();
    const std::size_t size = channels_of(plan.word);
    const std::size_t group_channels = plan.shape.group_channels();
    const std::size_t group_words = words_of_group(plan.shape, plan.word);
    const std::size_t count = plan.shape.geometry.groups * group_words;
    if (count * plane < parallel_elements) threads = 1;
    parallel_for(count, 1, threads, [&](std::size_t begin, std::size_t end) {
        for (std::size_t w = begin; w < end; ++w) {
            const std::size_t in_group = w % group_words * size;
            const std::size_t channel = w / group_words * group_channels + in_group;
            make(x + channel * plane, plane, std::min(size, group_channels - in_group), plane,
                 scale.scale, scale.zero, words + w * plane);
        }
    });
}

}  // namespace tersor::conv
