#include "conv/plan.hpp"

#include <optional>
#include <utility>
#include <vector>

#include "conv/kernels.hpp"
#include "spmm/layout.hpp"

namespace tersor::conv {
namespace {

bool has_kernels(Isa isa, Word word) noexcept {
    return kernels(isa).sums[static_cast<std::size_t>(word)][1] != nullptr;
}

std::shared_ptr<const Plan> make_plan(const PackedMatrix& filters, const Geometry& geometry,
                                      Precision precision) {
    auto plan = std::make_shared<Plan>();
    const Isa isa = filters.isa();
    std::optional<std::vector<float>> scales;
    const auto use = [&](Word word) {
        if (scales.has_value() || !has_kernels(isa, word)) return;
        scales = scales_for(filters, word, precision);
        plan->word = word;
    };
    if (precision == Precision::low) use(Word::quads);
    if (precision == Precision::low || precision == Precision::medium) use(Word::pairs);
    use(Word::floats);
    plan->shape = shape_of(geometry, filters.rows());
    plan->tiling =
        choose_tiling(plan->shape, plan->word, density_of_words(filters, plan->word), isa);
    plan->filters = make_filters(filters, plan->shape, plan->tiling, plan->word, *scales);
    return plan;
}

}  // namespace

std::size_t Plan::nbytes() const noexcept {
    return sizeof *this + filters.nbytes() +
           sizeof(std::uint32_t) * (tiling.input_rows.size() + tiling.tap_vectors.size());
}

std::shared_ptr<const Plan> plan_for(const PackedMatrix& filters, const Geometry& g,
                                     Precision precision) {
    // The two classes of fp32 are one.
    const Precision kind = precision == Precision::highest ? Precision::high : precision;
    const support::Attachments::Key key{g.in_channels,
                                        g.groups,
                                        g.input.h,
                                        g.input.w,
                                        g.kernel.h,
                                        g.kernel.w,
                                        g.stride.h,
                                        g.stride.w,
                                        g.padding.h,
                                        g.padding.w,
                                        g.dilation.h,
                                        g.dilation.w,
                                        static_cast<std::uint32_t>(kind)};
    return std::static_pointer_cast<const Plan>(filters.layout().convolutions.get(
        key, [&]() -> support::Attachments::Pointer { return make_plan(filters, g, kind); }));
}

}  // namespace tersor::conv
