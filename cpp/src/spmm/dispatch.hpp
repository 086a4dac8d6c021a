// Which kernels serve a batch: the numbers behind it are in layout hint.hpp.
#pragma once

#include <cstddef>
#include <optional>

#include "spmm/packed_matrix.hpp"

namespace tersor::spmm {

/// How the vectors of a batch are multiplied, the first ones first: on matrix units or in fp32,
/// then in panels of limbs, and the others a few at a time.
struct Plan {
    std::optional<Arithmetic> arithmetic;  // of fixed point, for any x; none: fp32
    bool as_floats = false;                // all of them, with dense slices of integers
    std::size_t in_tiles = 0;
    std::size_t in_panels = 0;  // of fp32; from csr16 where weights are not shared
    std::size_t in_limb_panels = 0;

    friend bool operator==(const Plan&, const Plan&) = default;
};

/// The plan for `batch` vectors, at least one. Makes the layouts that it needs, on `threads`
/// threads.
[[nodiscard]] Plan plan_for(const PackedMatrix::Layout& layout, std::size_t batch,
                            Precision precision, int threads);

/// The cheapest arithmetic that meets the class for every row; none where fp32 has to do it.
[[nodiscard]] std::optional<Arithmetic> choose_arithmetic(const Sell* layout, Precision precision,
                                                          bool positive) noexcept;

}  // namespace tersor::spmm
