#include "spmm/crossovers.hpp"

#include <algorithm>

#include "spmm/sell/layout.hpp"
#include "spmm/tiles/kernels.hpp"
#include "tersor/spmm.hpp"

namespace tersor::spmm {

Regime regime_for(const RelativeCsr& csr, std::size_t codebook_size, Use use) {
    const Isa isa = isa_in_use();
    const std::uint64_t weights = std::uint64_t{csr.rows} * csr.cols;
    const auto fillers = std::count(csr.codes.begin(), csr.codes.end(), std::uint8_t{0});
    const std::size_t nonzeros = csr.codes.size() - static_cast<std::size_t>(fillers);
    if (!fits_sell(isa, codebook_size, nonzeros, weights)) return Regime::batch;
    const std::optional<Arithmetic> arithmetic = usual_arithmetic(isa, use.precision);
    // The panels of limbs need the SELL layout too.
    if (use.precision == Precision::low) return Regime::vector;
    if (arithmetic.has_value() && tiles::kernels(isa).multiply != nullptr &&
        tiles_win(*arithmetic, use.batch, nonzeros, weights)) {
        return Regime::vector;
    }
    return use.batch >= panel_from(isa, arithmetic) ? Regime::batch : Regime::vector;
}

}  // namespace tersor::spmm
