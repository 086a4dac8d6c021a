// The numbers, all measured, from which one way to compute a product beats another.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>

#include "spmm/fixed_point.hpp"
#include "spmm/sliding.hpp"
#include "tersor/isa.hpp"

namespace tersor::spmm {

/// Vectors from which a panel, of which a part stays empty, is faster than what else there is: the
/// gathers of fp32, or the fixed-point arithmetic of a class.
[[nodiscard]] constexpr std::size_t panel_from(Isa isa,
                                               std::optional<Arithmetic> arithmetic) noexcept {
    if (!arithmetic.has_value()) return 4;
    if (isa == Isa::avx2 || isa == Isa::neon) return 6;
    if (arithmetic == Arithmetic{3, 3, 2}) return 12;
    if (arithmetic == finest_arithmetic) return 10;
    if (arithmetic->x_digits == 2) return 28;
    return SIZE_MAX;
}

/// Vectors from which a panel of digits, always 64 wide, beats the sliding kernel.
inline constexpr std::size_t digit_panel_from = 36;

/// Weights per non-zero from which most slots of the sliding layout stay empty, so that gathers are
/// faster.
inline constexpr std::uint64_t gather_from = 160;

/// Whether the fixed-point kernels of a level are for such a matrix.
[[nodiscard]] constexpr bool fits_sliding(Isa isa, std::size_t codebook_size, std::size_t nonzeros,
                                          std::uint64_t weights) noexcept {
    return codebook_size > 1 && codebook_size <= sliding_shape(isa).max_codes &&
           nonzeros * gather_from > weights;
}

}  // namespace tersor::spmm
