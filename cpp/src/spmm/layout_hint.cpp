#include "spmm/crossovers.hpp"

#include <algorithm>

#include "spmm/sell/layout.hpp"
#include "spmm/tiles/kernels.hpp"
#include "tersor/spmm.hpp"

namespace tersor::spmm {

LayoutHint layout_hint_for(const RelativeCsr& csr, std::size_t codebook_size, Use use) {
    const Isa isa = isa_in_use();
    const std::uint64_t weights = std::uint64_t{csr.rows} * csr.cols;
    const auto fillers = std::count(csr.codes.begin(), csr.codes.end(), std::uint8_t{0});
    const std::size_t nonzeros = csr.codes.size() - static_cast<std::size_t>(fillers);
    // What the values are is seen when they are packed: then the hint is not followed in vain.
    if (!fits_sell(isa, codebook_size, nonzeros, weights, true)) return LayoutHint::batch;
    const std::optional<Arithmetic> arithmetic = usual_arithmetic(isa, use.precision);
    // The panels of limbs need the SELL layout too.
    if (use.precision == Precision::low) return LayoutHint::vector;
    if (arithmetic.has_value() && tiles::kernels(isa).multiply != nullptr &&
        tiles_win(*arithmetic, use.batch, nonzeros, weights)) {
        return LayoutHint::vector;
    }
    return use.batch >= panel_from(isa, arithmetic, false) ? LayoutHint::batch : LayoutHint::vector;
}

}  // namespace tersor::spmm
