// The numbers, all measured, from which one way to compute a product beats another.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>

#include "spmm/fixed_point.hpp"
#include "spmm/sell/layout.hpp"
#include "tersor/isa.hpp"
#include "tersor/spmm.hpp"

namespace tersor::spmm {

/// Vectors from which a panel, of which a part stays empty, is faster than what else there is: the
/// gathers of fp32, or the fixed-point arithmetic of a class, with `integers` or with codes.
[[nodiscard]] constexpr std::size_t panel_from(Isa isa, std::optional<Arithmetic> arithmetic,
                                               bool integers) noexcept {
    if (integers && isa != Isa::amx) return SIZE_MAX;
    if (!arithmetic.has_value()) return 4;
    if (isa == Isa::avx2 || isa == Isa::neon) return 6;
    if (arithmetic == Arithmetic{3, 3, 2}) return 12;
    if (arithmetic == finest_arithmetic) return 10;
    if (arithmetic->x_limbs == 2) return 24;
    return SIZE_MAX;
}

/// Vectors from which dense slices of integers are multiplied in fp32 instead of limbs: soon where
/// a product of limbs takes three instructions, with one instruction where limbs are three or more.
[[nodiscard]] constexpr std::size_t floats_from(Isa isa, Precision precision) noexcept {
    const bool one_instruction = isa == Isa::avx512;
    if (isa == Isa::amx) return SIZE_MAX;  // tiles
    switch (precision) {
        case Precision::highest: return one_instruction ? 8 : 1;
        case Precision::high: return one_instruction ? 12 : 1;
        case Precision::medium: return one_instruction ? SIZE_MAX : 8;
        case Precision::low: break;
    }
    return SIZE_MAX;
}

/// Vectors from which a panel of limbs, always 64 wide, beats the SELL kernel.
inline constexpr std::size_t limb_panel_from = 36;

/// The arithmetic that a class mostly takes; none where the level serves it in fp32.
[[nodiscard]] constexpr std::optional<Arithmetic> usual_arithmetic(Isa isa,
                                                                   Precision precision) noexcept {
    const int bits = sell_shape(isa).limb_bits;
    switch (precision) {
        case Precision::highest:
            // With limbs of 7 bits too many rows would have to be computed again.
            return bits == 8 ? std::optional(finest_arithmetic) : std::nullopt;
        case Precision::high: return arithmetics.back();
        case Precision::medium: return Arithmetic{2, 2, 1};
        case Precision::low: break;
    }
    return Arithmetic{1, 1, 0};
}

/// Whether tiles, which take equally long whatever the density, beat the SELL kernel, which
/// takes equally long for each non-zero and vector, and then panels too. On levels that have tiles.
[[nodiscard]] constexpr bool tiles_win(Arithmetic arithmetic, std::size_t batch,
                                       std::size_t nonzeros, std::uint64_t weights) noexcept {
    constexpr std::uint64_t most_weights_per_nonzero[] = {20, 9, 7, 2};  // by limbs of x
    return 10 * batch * nonzeros >= 13 * weights &&
           most_weights_per_nonzero[arithmetic.x_limbs - 1] * nonzeros >= weights;
}

/// Weights per non-zero from which most slots of the SELL layout stay empty, so that gathers are
/// faster.
inline constexpr std::uint64_t gather_from = 160;

/// Whether the fixed-point kernels of a level are for such a matrix. `integers`: the values of the
/// codebook are multiples of a step.
[[nodiscard]] constexpr bool fits_sell(Isa isa, std::size_t codebook_size, std::size_t nonzeros,
                                       std::uint64_t weights, bool integers) noexcept {
    const SellShape usual = sell_shape(isa);
    if (usual == no_sell || codebook_size <= 1) return false;
    if (codebook_size <= usual.max_codes) return nonzeros * gather_from > weights;
    return integers && shape_for(usual, codebook_size, nonzeros, weights, integers).dense;
}

}  // namespace tersor::spmm
