// The ways to compute products by name, each to be run alone.
#include <algorithm>
#include <array>
#include <optional>
#include <stdexcept>
#include <string>

#include "spmm/kernels.hpp"
#include "spmm/layout.hpp"
#include "spmm/multiply_panels.hpp"
#include "spmm/multiply_tiles.hpp"
#include "spmm/products.hpp"
#include "support/checked_size.hpp"
#include "support/scratch.hpp"
#include "tersor/spmm.hpp"

namespace tersor::spmm {
namespace {

/// Fixed-point kernels by the digits of x and of the weights; `short` ones drop the products of the
/// lowest digits.
struct FixedKernel {
    std::string_view sliding;
    std::string_view tiles;
    Arithmetic arithmetic;
};
constexpr std::array fixed_kernels = {
    FixedKernel{"sliding_1x1", "tiles_1x1", {1, 1, 0}},
    FixedKernel{"sliding_1x2", "tiles_1x2", {1, 2, 0}},
    FixedKernel{"sliding_2x2_short", "tiles_2x2_short", {2, 2, 1}},
    FixedKernel{"sliding_2x2", "tiles_2x2", {2, 2, 0}},
    FixedKernel{"sliding_3x3_short", "tiles_3x3_short", {3, 3, 2}},
    FixedKernel{"sliding_4x3_short", "tiles_4x3_short", {4, 3, 2}},
};

std::optional<Arithmetic> arithmetic_of(std::string_view name,
                                        std::string_view FixedKernel::* layout) noexcept {
    for (const FixedKernel& kernel : fixed_kernels) {
        if (kernel.*layout == name) return kernel.arithmetic;
    }
    return std::nullopt;
}

bool has_kernel(Isa isa, Arithmetic arithmetic) noexcept {
    return kernels(isa).multiply_sliding != nullptr &&
           (arithmetic != finest_arithmetic || sliding_shape(isa).digit_bits == 8);
}

void check(bool good, std::string_view kernel, const char* message) {
    if (!good) throw std::invalid_argument("kernel '" + std::string(kernel) + "': " + message);
}

void multiply_by_fixed(std::string_view name, Arithmetic arithmetic,
                       const PackedMatrix::Layout& layout, const float* x, std::size_t batch,
                       const Outputs& out, int threads) {
    check(has_kernel(layout.isa, arithmetic), name, "the matrix's level has none");
    const Sliding* sliding = layout.sliding();
    check(sliding != nullptr, name, "the matrix has no sliding layout");
    const ActivationRange range_of = kernels(layout.isa).activation_range;
    for (std::size_t first = 0; first < batch; first += items_at_once) {
        const std::size_t count = std::min(items_at_once, batch - first);
        const float* vectors = x + first * layout.cols;
        std::array<Range, items_at_once> ranges;
        for (std::size_t n = 0; n < count; ++n) {
            ranges[n] = range_of(vectors + n * layout.cols, layout.cols);
            check(fits_fixed_point(*sliding, ranges[n]), name, "a vector does not fit fixed point");
        }
        multiply_fixed(layout, *sliding, arithmetic, std::span(ranges).first(count), vectors,
                       out.past(first), threads);
    }
}

}  // namespace

std::vector<KernelInfo> kernel_list() {
    std::vector<KernelInfo> list;
    for (const Isa isa : compiled_isas()) {
        if (!available(isa)) continue;
        list.push_back({"gather", isa, Regime::vector});
        for (const FixedKernel& kernel : fixed_kernels) {
            if (has_kernel(isa, kernel.arithmetic)) {
                list.push_back({kernel.sliding, isa, Regime::vector});
            }
        }
        list.push_back({"rows16", isa, Regime::batch});
        list.push_back({"panels", isa, Regime::batch});
        if (kernels(isa).multiply_digit_block != nullptr) {
            list.push_back({"digit_panels", isa, Regime::batch});
        }
        if (kernels(isa).multiply_tiles != nullptr) {
            for (const FixedKernel& kernel : fixed_kernels) {
                list.push_back({kernel.tiles, isa, Regime::batch});
            }
        }
    }
    return list;
}

void multiply_by(std::string_view kernel, const PackedMatrix& packed, std::span<const float> x,
                 std::size_t batch, std::span<float> y, int threads) {
    check(support::checked_product(batch, packed.cols()) == x.size(), kernel,
          "x does not have batch * cols elements");
    check(support::checked_product(batch, packed.rows()) == y.size(), kernel,
          "y does not have batch * rows elements");
    if (y.empty()) return;
    const PackedMatrix::Layout& layout = packed.layout();
    const Outputs out =
        make_outputs(kernels(layout.isa), layout.rows, {}, {}, FloatSpan(y), layout.row_factors);
    const bool scales = layout.column_factors.size() != 0;
    const support::Scratch<float> scaled(scales ? x.size() : 0);
    if (scales) {
        scale_columns(layout, x, scaled, threads);
        x = std::span<const float>(scaled.data(), scaled.size());
    }
    if (kernel == "gather") {
        for (std::size_t n = 0; n < batch; ++n) {
            multiply_gathering(layout, x.data() + n * layout.cols, out.past(n), threads);
        }
    } else if (const auto sliding = arithmetic_of(kernel, &FixedKernel::sliding)) {
        multiply_by_fixed(kernel, *sliding, layout, x.data(), batch, out, threads);
    } else if (const auto product = arithmetic_of(kernel, &FixedKernel::tiles)) {
        const Tiles* tiles = layout.tiles();
        check(tiles != nullptr, kernel, "the matrix or its level has no tiles");
        multiply_tiles(layout, *tiles, *product, x.data(), batch, out, threads);
    } else if (kernel == "rows16") {
        multiply_rows16(layout, x.data(), batch, out, threads);
    } else if (kernel == "panels") {
        const Panels* panels = layout.panels();
        check(panels != nullptr, kernel, "the matrix has no panels");
        multiply_panels(layout, *panels, x.data(), batch, out, threads);
    } else if (kernel == "digit_panels") {
        const Panels* panels = layout.digit_panels();
        check(panels != nullptr, kernel, "the matrix or its level has no panels of digits");
        multiply_digit_panels(layout, *panels, x.data(), batch, out, threads);
    } else {
        check(false, kernel, "there is none of this name");
    }
}

}  // namespace tersor::spmm
