// Convolutions tile by tile: a patch is filled, the filters are summed over it, block after block
// of channels, and the sums of the last block are stored.
#include <algorithm>

#include "conv/images.hpp"
#include "conv/store.hpp"
#include "support/prefetch.hpp"
#include "support/scratch.hpp"
#include "tersor/parallel.hpp"

namespace tersor::conv {
namespace {

/// Floats of the sums that wait for the next block of channels: a third of a megabyte.
constexpr std::size_t most_sums = 80 * 1024;

/// Filters between asking for the memory of outputs and writing them.
constexpr std::size_t stores_ahead = 2;

/// The sets of filters [begin, end) of one tile of an image, or of one in each lane.
struct Job {
    std::size_t tile;
    std::span<const Image> images;
    std::size_t set_begin;
    std::size_t set_end;
};

/// The lines of memory that the next patch of a tile is filled from, to be asked for a few at a
/// time while this one is in use: the processor does not foresee short runs of distant rows.
class Ahead {
public:
    Ahead() noexcept = default;
    Ahead(const PlanesView& from, const VectorSource* vectors, std::size_t count) noexcept
        : from_(from), vectors_(vectors), count_(count) {}

    /// Asks for the next few.
    void ask(std::size_t lines) noexcept {
        for (; lines > 0 && vectors_ != nullptr && channel_ < from_.channels; --lines) {
            const VectorSource& source = vectors_[at_];
            if (source.mask != 0) {
                const std::uint32_t* first =
                    from_.words + channel_ * from_.plane + std::ptrdiff_t{source.first};
                support::prefetch_second_cache(first);
                support::prefetch_second_cache(first + lanes - 1);
            }
            if (++at_ == count_) {
                at_ = 0;
                ++channel_;
            }
        }
    }
    [[nodiscard]] std::size_t lines() const noexcept { return from_.channels * count_; }

private:
    PlanesView from_{};
    const VectorSource* vectors_ = nullptr;
    std::size_t count_ = 0;
    std::size_t at_ = 0;
    std::size_t channel_ = 0;
};

/// One thread's work: the memory it needs, and the tile that it is at.
class Worker {
public:
    Worker(const Plan& plan, const Kernels& kernels, const spmm::Outputs& out,
           std::size_t image_words)
        : plan_(plan),
          kernels_(kernels),
          out_(out),
          sum_(kernels.sums[static_cast<std::size_t>(plan.word)][plan.tiling.tile_vectors()]),
          view_(plan.shape, plan.tiling, image_words),
          large_(words_of_image(plan.shape, plan.word) > words_in_cache),
          prefetches_outputs_(plan.shape.filters * plan.shape.output_pixels() > words_in_cache &&
                              plan.tiling.cut != Cut::images && out.y_type == FloatType::float32),
          patch_(plan.tiling.patch_words()),
          sums_(plan.tiling.blocks() > 1
                    ? std::min(plan.shape.group_filters(), sets_at_once() * set_filters) *
                          tile_floats()
                    : 0),
          last_(2 * tile_floats()) {}

    void run(const Job& job) noexcept {
        if (job.tile != tile_) view_.describe(tile_ = job.tile);
        for (std::size_t lane = 0; lane < lanes; ++lane) {
            const Image& image = job.images[job.images.size() == 1 ? 0 : lane];
            zeros_[lane] = plan_.word == Word::quads
                               ? 0x01010101U * static_cast<std::uint32_t>(image.zero)
                               : 0U;
        }
        const std::size_t group_filters = plan_.shape.group_filters();
        const std::size_t sets = sets_of(group_filters);
        for (std::size_t set = job.set_begin; set < job.set_end;) {
            const std::size_t group = set / sets;
            const std::size_t first = set % sets;
            const std::size_t count = std::min({job.set_end - set, sets - first, sets_at_once()});
            const std::size_t begin = group * group_filters + first * set_filters;
            const std::size_t end =
                std::min(begin + count * set_filters, (group + 1) * group_filters);
            for (std::size_t block = 0; block < plan_.tiling.blocks(); ++block) {
                fill(job.images, group, block);
                sum_block(job.images, group, block, begin, end);
            }
            set += count;
        }
    }

private:
    [[nodiscard]] std::size_t tile_floats() const noexcept {
        return plan_.tiling.tile_vectors() * lanes;
    }

    /// Sets whose sums, between the blocks, take a fair part of the second cache; the patches are
    /// filled anew for the next.
    [[nodiscard]] std::size_t sets_at_once() const noexcept {
        if (plan_.tiling.blocks() == 1) return sets_of(plan_.shape.group_filters());
        return std::max<std::size_t>(most_sums / (set_filters * tile_floats()), 1);
    }

    /// The planes of the channels that a block reads.
    [[nodiscard]] PlanesView planes_of(std::span<const Image> images, std::size_t group,
                                       std::size_t block) const noexcept {
        const Tiling& tiling = plan_.tiling;
        const std::size_t channels = words_of_group(plan_.shape, plan_.word);
        const std::size_t first = block / tiling.slices * tiling.block_words;
        const std::size_t plane = plan_.shape.input_pixels();
        return {images[0].words + (group * channels + first) * plane, plane,
                std::min(tiling.block_words, channels - first), zeros_};
    }

    /// What the next block of the tile reads, where that may be in no cache.
    [[nodiscard]] Ahead ahead_of(std::span<const Image> images, std::size_t group,
                                 std::size_t block) const noexcept {
        const Tiling& tiling = plan_.tiling;
        if (!large_ || tiling.slices > 1 || block + 1 == tiling.blocks() ||
            tiling.step == Step::indexed) {
            return {};
        }
        // One column of taps, or the first tap.
        const std::size_t count =
            tiling.cut == Cut::flat ? tiling.columns : tiling.lines_read.size() * tiling.columns;
        return {planes_of(images, group, block + 1), view_.sources(), count};
    }

    void fill(std::span<const Image> images, std::size_t group, std::size_t block) noexcept {
        const Tiling& tiling = plan_.tiling;
        const std::size_t slice = block % tiling.slices;
        const PlanesView from = planes_of(images, group, block);
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

    void sum_block(std::span<const Image> images, std::size_t group, std::size_t block,
                   std::size_t begin, std::size_t end) noexcept {
        const Filters& filters = plan_.filters;
        const std::size_t group_filters = plan_.shape.group_filters();
        const std::size_t blocks = plan_.tiling.blocks();
        const bool is_last = block + 1 == blocks;
        Ahead ahead = ahead_of(images, group, block);
        const std::size_t lines_each = (ahead.lines() + end - begin - 1) / (end - begin);
        const std::size_t first_list =
            (group * blocks + block) * group_filters + (begin - group * group_filters);
        for (std::size_t list = first_list; list < first_list + (end - begin); ++list) {
            const std::size_t f = filters.order[list];
            float* const kept = blocks > 1 ? sums_.data() + (f - begin) * tile_floats() : nullptr;
            const float* before = block > 0 ? kept : nullptr;
            float* const after = is_last ? last_.data() : kept;
            ahead.ask(lines_each);
            if (is_last && prefetches_outputs_ && list + stores_ahead < filters.order.size()) {
                ask_for_outputs(images[0], filters.order[list + stores_ahead]);
            }
            for (std::uint32_t r = filters.lists[list]; r < filters.lists[list + 1]; ++r) {
                const std::uint32_t at = filters.runs[r];
                sum_({filters.offsets.data() + at, filters.weights.data() + at,
                      filters.runs[r + 1] - at},
                     patch_.data(), before, after);
                before = after;
            }
            if (!is_last) continue;
            if (plan_.tiling.cut == Cut::images) {
                store_images(images, f);
            } else {
                store(images[0], f);
            }
        }
    }

    /// Asks for the memory that the outputs of a filter will be written to.
    void ask_for_outputs(const Image& image, std::size_t filter) const noexcept {
        const float* const y = out_.products + image.output + filter * plan_.shape.output_pixels();
        for (std::size_t t = 0; t < plan_.tiling.tile_vectors(); ++t) {
            support::prefetch_to_write(y + view_.targets()[t].first);
        }
    }

    /// What makes outputs of a filter's sums, but for the activation.
    [[nodiscard]] Finishing finishing_of(const Image& image, std::size_t filter) const noexcept {
        const float unit = plan_.filters.units[filter] * image.unit;
        Finishing finishing{unit, out_.bias.empty() ? 0.0F : out_.bias[filter], -infinity,
                            infinity};
        if (plan_.word == Word::quads) {
            finishing.offset -=
                unit * static_cast<float>(image.zero) * plan_.filters.totals[filter];
        }
        return finishing;
    }

    void store_images(std::span<const Image> images, std::size_t filter) noexcept {
        Finishing one{};
        ImagesFinishing finishing{};
        for (std::size_t lane = 0; lane < lanes; ++lane) {
            one = finishing_of(images[lane], filter);
            finishing.scale[lane] = one.scale;
            finishing.offset[lane] = one.offset;
        }
        const std::size_t count = view_.targets()->count;
        const std::size_t plane =
            filter * plan_.shape.output_pixels() + static_cast<std::size_t>(view_.targets()->first);
        const bool clamped = clamps(out_);
        if (clamped) add_clamp(out_, one);
        finishing.low = one.low;
        finishing.high = one.high;
        if (clamped) {
            const std::size_t stride = images[1].output - images[0].output;
            kernels_.store_images(last_.data(), count, finishing, stride,
                                  out_.products + images[0].output + plane);
            return;
        }
        float* const from = last_.data() + tile_floats();
        kernels_.store_images(last_.data(), count, finishing, count, from);
        for (std::size_t lane = 0; lane < lanes; ++lane) {
            out_.apply_epilogue_at(from + lane * count, images[lane].output + plane, count);
        }
    }

    void store(const Image& image, std::size_t filter) noexcept {
        const std::size_t vectors = plan_.tiling.tile_vectors();
        Finishing finishing = finishing_of(image, filter);
        const std::size_t at = image.output + filter * plan_.shape.output_pixels();
        if (clamps(out_)) {
            add_clamp(out_, finishing);
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
            out_.apply_epilogue_at(from, at + static_cast<std::size_t>(target.first), target.count);
        }
    }

    const Plan& plan_;
    const Kernels& kernels_;
    const spmm::Outputs& out_;
    Sum sum_;
    TileView view_;
    bool large_;
    bool prefetches_outputs_;
    std::uint32_t zeros_[lanes] = {};
    std::size_t tile_ = SIZE_MAX;
    support::Scratch<std::uint32_t> patch_;
    support::Scratch<float> sums_;  // of all filters of a group, between blocks
    support::Scratch<float> last_;  // of one filter; and the same with bias
};

/// Parts that the sets of filters are divided into where there are few tiles for the threads. Each
/// fills the patches anew.
std::size_t parts_for(std::size_t tiles, std::size_t sets, int threads) noexcept {
    const auto wanted = static_cast<std::size_t>(std::max(threads, 1));
    if (wanted == 1 || tiles >= 4 * wanted) return 1;
    return std::min(sets, wanted);
}

}  // namespace

void convolve_tiles(const Plan& plan, Isa isa, std::span<const Image> images,
                    const spmm::Outputs& out, int threads) {
    const Kernels& kernel = kernels(isa);
    const std::size_t all_sets = plan.shape.geometry.groups * sets_of(plan.shape.group_filters());
    const std::size_t at_once = plan.tiling.cut == Cut::images ? lanes : 1;
    const std::size_t image_sets = images.size() / at_once;
    const std::size_t places = plan.tiling.tiles() * image_sets;
    const std::size_t parts = parts_for(places, all_sets, threads);
    const std::size_t image_words =
        at_once > 1 ? static_cast<std::size_t>(images[1].words - images[0].words) : 0;
    // Parts of one place are as far apart as can be: threads take neighbours.
    parallel_for(places * parts, 1, threads, [&](std::size_t begin, std::size_t end) {
        Worker worker(plan, kernel, out, image_words);
        for (std::size_t i = begin; i < end; ++i) {
            const std::size_t part = i / places;
            const std::size_t place = i % places;
            worker.run({place / image_sets, images.subspan(place % image_sets * at_once, at_once),
                        all_sets * part / parts, all_sets * (part + 1) / parts});
        }
    });
}

}  // namespace tersor::conv
