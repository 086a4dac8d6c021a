#include "spmm/dispatch.hpp"

#include <algorithm>

#include "spmm/crossovers.hpp"
#include "spmm/sell/kernels.hpp"
#include "spmm/sell/multiply.hpp"
#include "spmm/tiles/kernels.hpp"
#include "spmm/tiles/layout.hpp"

namespace tersor::spmm {
namespace {

/// How many of the vectors, from the first one on, the fp32 kernels for batches take. They meet
/// every class: what a class takes instead is faster, or it would be slower than a more exact one.
std::size_t vectors_in_panels(const PackedMatrix::Layout& layout, std::size_t batch,
                              std::optional<Arithmetic> arithmetic, int threads) {
    const std::size_t least = panel_from(layout.isa, arithmetic, layout.runs_integers());
    if (batch < least) return 0;
    if (layout.codebook_size > 0 && layout.panels(threads) == nullptr) return 0;
    std::size_t remaining = batch;
    while (remaining >= least) remaining -= std::min(remaining, lanes_for(remaining));
    return batch - remaining;
}

/// Whether matrix units are the fastest for the batch.
bool takes_tiles(const PackedMatrix::Layout& layout, std::size_t batch, Precision precision) {
    if constexpr (!has_tiles) return false;
    const std::optional<Arithmetic> usual = usual_arithmetic(layout.isa, precision);
    return tiles::kernels(layout.isa).multiply != nullptr && usual.has_value() &&
           tiles_win(*usual, batch, layout.nonzeros, std::uint64_t{layout.rows} * layout.cols);
}

/// How many of the vectors, from the first one on, the panels of limbs take.
std::size_t vectors_in_limb_panels(std::size_t batch) noexcept {
    const std::size_t remaining = batch % limb_lanes;
    return remaining >= limb_panel_from ? batch : batch - remaining;
}

}  // namespace

std::optional<Arithmetic> choose_arithmetic(const Sell* layout, Precision precision,
                                            bool positive) noexcept {
    if (layout == nullptr || !fits_fixed_point(*layout)) return std::nullopt;
    if (precision == Precision::highest) {
        return layout->shape.limb_bits == 8 ? std::optional(finest_arithmetic) : std::nullopt;
    }
    for (std::size_t a = 0; a < arithmetics.size(); ++a) {
        const double error = positive ? error_of_positive(layout->errors[a]) : layout->errors[a];
        if (error <= error_limit(precision)) return arithmetics[a];
    }
    return std::nullopt;
}

Plan plan_for(const PackedMatrix::Layout& layout, std::size_t batch, Precision precision,
              int threads) {
    Plan plan;
    if (layout.runs_integers() && sell::kernels(layout.isa).multiply_as_floats != nullptr &&
        batch >= floats_from(layout.isa, precision) && fits_fixed_point(*layout.sell(threads))) {
        plan.as_floats = true;
        return plan;
    }
    // `high` and `highest` have one arithmetic each, so that the layout for fixed point need not be
    // made to know whether panels take the whole batch.
    if (precision == Precision::high || precision == Precision::highest) {
        plan.arithmetic = usual_arithmetic(layout.isa, precision);
        if (!takes_tiles(layout, batch, precision)) {
            plan.in_panels = vectors_in_panels(layout, batch, plan.arithmetic, threads);
            if (plan.in_panels == batch) return plan;
        }
    }
    plan.arithmetic = choose_arithmetic(layout.sell(threads), precision, false);
    if (plan.arithmetic.has_value() && takes_tiles(layout, batch, precision) &&
        layout.tiles(threads) != nullptr) {
        plan.in_panels = 0;
        plan.in_tiles = batch;
        return plan;
    }
    plan.in_panels = vectors_in_panels(layout, batch, plan.arithmetic, threads);
    if (plan.in_panels > 0 || plan.arithmetic != Arithmetic{1, 1, 0}) return plan;
    const std::size_t in_limbs = vectors_in_limb_panels(batch);
    if (in_limbs > 0 && layout.limb_panels(threads) != nullptr) plan.in_limb_panels = in_limbs;
    return plan;
}

}  // namespace tersor::spmm
