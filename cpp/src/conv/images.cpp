#include "conv/images.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

#include "support/scratch.hpp"
#include "tersor/parallel.hpp"

namespace tersor::conv {
namespace {

/// Pixels below which an image is not worth a second thread's attention.
constexpr std::size_t parallel_elements = 1U << 15;

constexpr float infinity = std::numeric_limits<float>::infinity();

/// The filters [begin, end) of one tile of one image.
struct Job {
    std::size_t tile;
    const Image& image;
    std::size_t filter_begin;
    std::size_t filter_end;
};

/// One thread's work: the memory it needs, and the tile that it is at.
class Worker {
public:
    Worker(const Plan& plan, const Kernels& kernels, const spmm::Outputs& out)
        : plan_(plan),
          kernels_(kernels),
          out_(out),
          sum_(kernels.sums[static_cast<std::size_t>(plan.word)][plan.tiling.tile_vectors()]),
          view_(plan.shape, plan.tiling),
          patch_(plan.tiling.patch_words()),
          sums_(plan.tiling.blocks() > 1 ? plan.shape.group_filters() * tile_floats() : 0),
          last_(2 * tile_floats()) {}

    void run(const Job& job) noexcept {
        if (job.tile != tile_) view_.describe(tile_ = job.tile);
        const std::size_t group_filters = plan_.shape.group_filters();
        for (std::size_t begin = job.filter_begin; begin < job.filter_end;) {
            const std::size_t group = begin / group_filters;
            const std::size_t end = std::min(job.filter_end, (group + 1) * group_filters);
            for (std::size_t block = 0; block < plan_.tiling.blocks(); ++block) {
                fill(job.image, group, block);
                sum_block(job.image, group, block, begin, end);
            }
            begin = end;
        }
    }

private:
    [[nodiscard]] std::size_t tile_floats() const noexcept {
        return plan_.tiling.tile_vectors() * lanes;
    }

    void fill(const Image& image, std::size_t group, std::size_t block) noexcept {
        const Tiling& tiling = plan_.tiling;
        const std::size_t channels = words_per_group(plan_);
        const std::size_t first = block / tiling.slices * tiling.block_words;
        const std::size_t slice = block % tiling.slices;
        const std::size_t plane = plan_.shape.input_pixels();
        const std::uint32_t zero =
            plan_.word == Word::quads ? 0x01010101U * static_cast<std::uint32_t>(image.zero) : 0U;
        const PlanesView from{image.words + (group * channels + first) * plane, plane,
                              std::min(tiling.block_words, channels - first), zero};
        const std::size_t begin = slice * tiling.slice_vectors;
        const std::size_t count = std::min(tiling.slice_vectors, tiling.vectors - begin);
        switch (tiling.step) {
            case Step::one:
                return kernels_.fill_step_one(from, view_.sources() + begin, count, patch_.data());
            case Step::two:
                return kernels_.fill_step_two(from, view_.sources() + begin, count, patch_.data());
            case Step::indexed: break;
        }
        kernels_.fill_indexed(from, view_.indexed() + begin, count, patch_.data());
    }

    void sum_block(const Image& image, std::size_t group, std::size_t block, std::size_t begin,
                   std::size_t end) noexcept {
        const Filters& filters = plan_.filters;
        const std::size_t group_filters = plan_.shape.group_filters();
        const std::size_t blocks = plan_.tiling.blocks();
        const bool is_last = block + 1 == blocks;
        for (std::size_t f = begin; f < end; ++f) {
            const std::size_t in_group = f - group * group_filters;
            const std::size_t list = (group * blocks + block) * group_filters + in_group;
            float* const kept = blocks > 1 ? sums_.data() + in_group * tile_floats() : nullptr;
            const float* before = block > 0 ? kept : nullptr;
            float* const after = is_last ? last_.data() : kept;
            for (std::uint32_t r = filters.lists[list]; r < filters.lists[list + 1]; ++r) {
                const std::uint32_t at = filters.runs[r];
                sum_({filters.offsets.data() + at, filters.weights.data() + at,
                      filters.runs[r + 1] - at},
                     patch_.data(), before, after);
                before = after;
            }
            if (is_last) store(image, f);
        }
    }

    void store(const Image& image, std::size_t filter) noexcept {
        const std::size_t vectors = plan_.tiling.tile_vectors();
        const float unit = plan_.filters.units[filter] * image.unit;
        Finishing finishing{unit, out_.bias.empty() ? 0.0F : out_.bias[filter], -infinity,
                            infinity};
        if (plan_.word == Word::quads) {
            finishing.offset -=
                unit * static_cast<float>(image.zero) * plan_.filters.totals[filter];
        }
        const std::size_t at = image.output + filter * plan_.shape.output_pixels();
        if (clamps()) {
            if (out_.activation != Activation::none) finishing.low = 0.0F;
            if (out_.activation == Activation::relu6) finishing.high = 6.0F;
            kernels_.store(last_.data(), view_.targets(), vectors, finishing, out_.products + at);
            return;
        }
        // Bias and scale in place, then whatever else there is, vector by vector.
        float* const sums = last_.data();
        for (std::size_t t = 0; t < vectors; ++t) {
            const VectorTarget& target = view_.targets()[t];
            if (target.count == 0) continue;
            const VectorTarget here{0, static_cast<std::uint32_t>(lanes)};
            float* const from = sums + tile_floats() + t * lanes;
            kernels_.store(sums + t * lanes, &here, 1, finishing, from);
            out_.finish_at(from, at + static_cast<std::size_t>(target.first), target.count);
        }
    }

    /// Whether the store itself can do what is left to do.
    [[nodiscard]] bool clamps() const noexcept {
        return out_.y_type == FloatType::float32 && out_.residual == nullptr &&
               (out_.activation == Activation::none || out_.activation == Activation::relu ||
                out_.activation == Activation::relu6);
    }

    static std::size_t words_per_group(const Plan& plan) noexcept {
        const std::size_t size = channels_of(plan.word);
        return (plan.shape.group_channels() + size - 1) / size;
    }

    const Plan& plan_;
    const Kernels& kernels_;
    const spmm::Outputs& out_;
    Sum sum_;
    TileView view_;
    std::size_t tile_ = SIZE_MAX;
    support::Scratch<std::uint32_t> patch_;
    support::Scratch<float> sums_;  // of all filters of a group, between blocks
    support::Scratch<float> last_;  // of one filter; and the same with bias
};

/// Parts that the filters are divided into where there are few tiles for the threads. Each fills
/// the patches anew.
std::size_t parts_for(std::size_t tiles, std::size_t filters, int threads) noexcept {
    const auto wanted = static_cast<std::size_t>(std::max(threads, 1));
    if (wanted == 1 || tiles >= 4 * wanted) return 1;
    return std::min(filters, wanted);
}

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
    const spmm::ActivationRange range_of = spmm::kernels(isa).activation_range;
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

std::size_t words_of_image(const Plan& plan) noexcept {
    const std::size_t size = channels_of(plan.word);
    const std::size_t channels = (plan.shape.group_channels() + size - 1) / size;
    return plan.shape.geometry.groups * channels * plan.shape.input_pixels();
}

void make_words(const Plan& plan, Isa isa, const float* x, const ImageScale& scale,
                std::uint32_t* words, int threads) {
    const Kernels& kernel = kernels(isa);
    const MakeWords make = plan.word == Word::pairs ? kernel.make_pairs : kernel.make_quads;
    const std::size_t plane = plan.shape.input_pixels();
    const std::size_t size = channels_of(plan.word);
    const std::size_t group_channels = plan.shape.group_channels();
    const std::size_t group_words = (group_channels + size - 1) / size;
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

void convolve_images(const Plan& plan, Isa isa, std::span<const Image> images,
                     const spmm::Outputs& out, int threads) {
    const Kernels& kernel = kernels(isa);
    const std::size_t filters = plan.shape.filters;
    const std::size_t places = plan.tiling.tiles() * images.size();
    const std::size_t parts = parts_for(places, filters, threads);
    // Parts of one place are as far apart as can be: threads take neighbours.
    parallel_for(places * parts, 1, threads, [&](std::size_t begin, std::size_t end) {
        Worker worker(plan, kernel, out);
        for (std::size_t i = begin; i < end; ++i) {
            const std::size_t part = i / places;
            const std::size_t place = i % places;
            worker.run({place / images.size(), images[place % images.size()],
                        filters * part / parts, filters * (part + 1) / parts});
        }
    });
}

}  // namespace tersor::conv
