// The ways to compute products by name, each to be run alone.
#include <algorithm>
#include <array>
#include <optional>
#include <stdexcept>
#include <string>

#include "spmm/activations/kernels.hpp"
#include "spmm/csr16/multiply.hpp"
#include "spmm/factors.hpp"
#include "spmm/packed_matrix.hpp"
#include "spmm/panels/kernels.hpp"
#include "spmm/panels/multiply.hpp"
#include "spmm/sell/kernels.hpp"
#include "spmm/sell/multiply.hpp"
#include "spmm/tiles/kernels.hpp"
#include "spmm/tiles/multiply.hpp"
#include "support/checked_size.hpp"
#include "support/scratch.hpp"
#include "tersor/spmm.hpp"

namespace tersor::spmm {
namespace {

/// Fixed-point kernels by the limbs of x and of the weights; `short` ones drop the products of the
/// lowest limbs.
struct FixedKernel {
    std::string_view sell;
    std::string_view tiles;
    Arithmetic arithmetic;
};
constexpr std::array fixed_kernels = {
    FixedKernel{"sell_1x1", "tiles_1x1", {1, 1, 0}},
    FixedKernel{"sell_1x2", "tiles_1x2", {1, 2, 0}},
    FixedKernel{"sell_2x2_short", "tiles_2x2_short", {2, 2, 1}},
    FixedKernel{"sell_2x2", "tiles_2x2", {2, 2, 0}},
    FixedKernel{"sell_3x3_short", "tiles_3x3_short", {3, 3, 2}},
    FixedKernel{"sell_4x3_short", "tiles_4x3_short", {4, 3, 2}},
};

std::optional<Arithmetic> arithmetic_of(std::string_view name,
                                        std::string_view FixedKernel::* layout) noexcept {
    for (const FixedKernel& kernel : fixed_kernels) {
        if (kernel.*layout == name) return kernel.arithmetic;
    }
    return std::nullopt;
}

bool has_kernel(Isa isa, Arithmetic arithmetic) noexcept {
    return sell::kernels(isa).multiply != nullptr &&
           (arithmetic != finest_arithmetic || sell_shape(isa).limb_bits == 8);
}

void check(bool good, std::string_view kernel, const char* message) {
    if (!good) throw std::invalid_argument("kernel '" + std::string(kernel) + "': " + message);
}

void multiply_by_fixed(std::string_view name, Arithmetic arithmetic,
                       const PackedMatrix::Layout& layout, const float* x, std::size_t batch,
                       const Outputs& out, int threads) {
    check(has_kernel(layout.isa, arithmetic), name, "the matrix's level has none");
    const Sell* sell = layout.sell();
    check(sell != nullptr, name, "the matrix has no SELL layout");
    const activations::RangeOf range_of = activations::kernels(layout.isa).range;
    for (std::size_t first = 0; first < batch; first += items_at_once) {
        const std::size_t count = std::min(items_at_once, batch - first);
        const float* vectors = x + first * layout.cols;
        std::array<Range, items_at_once> ranges;
        for (std::size_t n = 0; n < count; ++n) {
            ranges[n] = range_of(vectors + n * layout.cols, layout.cols);
            check(fits_fixed_point(*sell, ranges[n]), name, "a vector does not fit fixed point");
        }
        multiply_fixed(layout, *sell, arithmetic, std::span(ranges).first(count), vectors,
                       out.past(first), threads);
    }
}

}  // namespace

std::vector<KernelInfo> kernel_list() {
    std::vector<KernelInfo> list;
    for (const Isa isa : compiled_isas()) {
        if (!available(isa)) continue;
        list.push_back({"gather", isa, LayoutHint::vector});
        for (const FixedKernel& kernel : fixed_kernels) {
            if (has_kernel(isa, kernel.arithmetic)) {
                list.push_back({kernel.sell, isa, LayoutHint::vector});
            }
        }
        list.push_back({"csr16", isa, LayoutHint::batch});
        list.push_back({"panels", isa, LayoutHint::batch});
        if (panels::kernels(isa).multiply_limb_block != nullptr) {
            list.push_back({"limb_panels", isa, LayoutHint::batch});
        }
        if (tiles::kernels(isa).multiply != nullptr) {
            for (const FixedKernel& kernel : fixed_kernels) {
                list.push_back({kernel.tiles, isa, LayoutHint::batch});
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
        make_outputs(layout.isa, layout.rows, {}, {}, FloatSpan(y), layout.row_factors);
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
    } else if (const auto sell = arithmetic_of(kernel, &FixedKernel::sell)) {
        multiply_by_fixed(kernel, *sell, layout, x.data(), batch, out, threads);
    } else if (const auto product = arithmetic_of(kernel, &FixedKernel::tiles)) {
        const Tiles* tiles = layout.tiles();
        check(tiles != nullptr, kernel, "the matrix or its level has no tiles");
        multiply_tiles(layout, *tiles, *product, x.data(), batch, out, threads);
    } else if (kernel == "csr16") {
        multiply_csr16(layout, x.data(), batch, out, threads);
    } else if (kernel == "panels") {
        const Panels* panels = layout.panels();
        check(panels != nullptr, kernel, "the matrix has no panels");
        multiply_panels(layout, *panels, x.data(), batch, out, threads);
    } else if (kernel == "limb_panels") {
        const Panels* panels = layout.limb_panels();
        check(panels != nullptr, kernel, "the matrix or its level has no panels of limbs");
        multiply_limb_panels(layout, *panels, x.data(), batch, out, threads);
    } else {
        check(false, kernel, "there is none of this name");
    }
}

}  // namespace tersor::spmm
