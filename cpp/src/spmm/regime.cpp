#include "spmm/regime.hpp"

#include <algorithm>

#include "spmm/sliding.hpp"
#include "tersor/spmm.hpp"

namespace tersor::spmm {

Regime regime_for(const RelativeCsr& csr, std::size_t codebook_size, Use use) {
    const Isa isa = isa_in_use();
    const std::uint64_t weights = std::uint64_t{csr.rows} * csr.cols;
    const auto fillers = std::count(csr.codes.begin(), csr.codes.end(), std::uint8_t{0});
    const std::size_t nonzeros = csr.codes.size() - static_cast<std::size_t>(fillers);
    if (!fits_sliding(isa, codebook_size, nonzeros, weights)) return Regime::batch;
    std::optional<Arithmetic> arithmetic;
    switch (use.precision) {
        case Precision::highest:
            if (sliding_shape(isa).digit_bits == 8) arithmetic = finest_arithmetic;
            break;
        case Precision::high: arithmetic = arithmetics.back(); break;
        case Precision::medium: arithmetic = Arithmetic{2, 2, 1}; break;
        // The panels of digits need the sliding layout too.
        case Precision::low: return Regime::vector;
    }
    return use.batch >= panel_from(isa, arithmetic) ? Regime::batch : Regime::vector;
}

}  // namespace tersor::spmm
