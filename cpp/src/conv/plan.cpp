#include "conv/plan.hpp"

#include <algorithm>
#include <optional>
#include <utility>
#include <vector>

#include "conv/kernels.hpp"
#include "spmm/packed_matrix.hpp"

namespace tersor::conv {
namespace {

/// Whether the places of 16 images fit the indices, and the images a cache.
bool fits_lanes(const Shape& shape, Word word) noexcept {
    constexpr std::size_t most_words = std::size_t{8} << 20;
    constexpr std::size_t most_outputs = std::size_t{INT32_MAX} / lanes;
    return words_of_image(shape, word) <= most_words / lanes &&
           shape.filters * shape.output_pixels() <= most_outputs;
}

bool has_kernels(Isa isa, Word word) noexcept {
    return kernels(isa).sums[static_cast<std::size_t>(word)][1] != nullptr;
}

/// Kept weights of a depthwise filter from which to multiply by all is faster than to look them up.
constexpr double depthwise_density = 0.25;

/// The kernel that computes one channel after the other, where there is one for the geometry.
Depthwise depthwise_kernel(const PackedMatrix& filters, const Geometry& g) noexcept {
    const bool alike = g.kernel.h == g.kernel.w && g.stride.h == g.stride.w;
    if (!alike || g.groups != g.in_channels || (g.kernel.h != 3 && g.kernel.h != 5) ||
        g.stride.h > 2 || g.dilation.h != 1 || g.dilation.w != 1) {
        return nullptr;
    }
    const std::uint32_t longest = std::max(g.input.h, g.input.w);
    const std::uint32_t widest = std::max(g.padding.h, g.padding.w);
    if (longest > INT32_MAX / 4 || widest > INT32_MAX / 4) return nullptr;
    if (density_of_words(filters, Word::floats) < depthwise_density) return nullptr;
    return kernels(filters.isa()).depthwise[(g.kernel.h - 3) / 2][g.stride.h - 1];
}

std::shared_ptr<const Plan> make_plan(const PackedMatrix& filters, const Geometry& geometry,
                                      Precision precision, bool images) {
    auto plan = std::make_shared<Plan>();
    const Isa isa = filters.isa();
    plan->shape = shape_of(geometry, filters.rows());
    plan->depthwise = depthwise_kernel(filters, geometry);
    if (plan->depthwise != nullptr) {
        plan->taps.resize(filters.rows() * plan->shape.taps());
        filters.unpack(plan->taps);
        return plan;
    }
    std::optional<std::vector<float>> scales;
    const auto use = [&](Word word) {
        if (scales.has_value() || !has_kernels(isa, word)) return;
        scales = scales_for(filters, word, precision);
        plan->word = word;
    };
    if (precision == Precision::low) use(Word::quads);
    if (precision == Precision::low || precision == Precision::medium) use(Word::pairs);
    use(Word::floats);
    images = images && fits_lanes(plan->shape, plan->word);
    plan->tiling =
        choose_tiling(plan->shape, plan->word, density_of_words(filters, plan->word), isa, images);
    // NOLINTNEXTLINE(bugprone-unchecked-optional-access): floats represent every filter
    plan->filters = make_filters(filters, plan->shape, plan->tiling, plan->word, *scales);
    return plan;
}

}  // namespace

std::size_t Plan::nbytes() const noexcept {
    return sizeof *this + filters.nbytes() + sizeof(std::uint64_t) * tiling.lines_read.size() +
           sizeof(std::uint32_t) * tiling.tap_vectors.size();
}

std::shared_ptr<const Plan> plan_for(const PackedMatrix& filters, const Geometry& g,
                                     Precision precision, bool images) {
    // The two classes of fp32 are one.
    const Precision kind = precision == Precision::highest ? Precision::high : precision;
    const std::uint32_t variant = 2 * static_cast<std::uint32_t>(kind) + (images ? 1 : 0);
    const support::Attachments::Key key{
        g.in_channels, g.groups,    g.input.h,   g.input.w,    g.kernel.h,   g.kernel.w, g.stride.h,
        g.stride.w,    g.padding.h, g.padding.w, g.dilation.h, g.dilation.w, variant};
    const auto make = [&]() -> support::Attachments::Pointer {
        auto plan = make_plan(filters, g, kind, images);
        if (images && plan->tiling.cut != Cut::images) return plan_for(filters, g, kind, false);
        return plan;
    };
    return std::static_pointer_cast<const Plan>(filters.layout().convolutions.get(key, make));
}

}  // namespace tersor::conv
