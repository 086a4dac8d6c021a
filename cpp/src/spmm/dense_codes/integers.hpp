// Codebooks whose values are whole multiples of a step, as uniform quantization to 8 bits makes
// them. Dense slices of more than 16 such values hold the multiples as signed bytes instead of
// codes: a weight is one limb, without an error and without a look-up.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <span>

#include "spmm/fixed_point.hpp"

namespace tersor::spmm {

struct Integers {
    double step = 0.0;
    std::array<std::int8_t, 256> of_code{};   // the multiple that a code stands for
    std::array<std::uint8_t, 256> code_of{};  // the code of a multiple, by its byte
};

/// The integers of a codebook of more than 16 values: none where a value is further from a multiple
/// than fp32 rounds, is beyond 127 steps, or occurs twice.
[[nodiscard]] std::optional<Integers> find_integers(std::span<const float> codebook);

/// The same in limbs, of which all but the highest are 0: every arithmetic is then as precise as
/// one of a single limb.
[[nodiscard]] Limbs limbs_of(const Integers& integers, int count, int bits);

}  // namespace tersor::spmm
