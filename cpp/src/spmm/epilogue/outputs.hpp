// The writing of products: fp32 sums on their way to y, through the epilogue.
#pragma once

#include <cstddef>
#include <span>

#include "spmm/epilogue/kernels.hpp"
#include "tersor/epilogue.hpp"

namespace tersor::spmm {

/// Bytes of an element.
[[nodiscard]] constexpr std::size_t size_of(FloatType type) noexcept {
    return type == FloatType::bfloat16 ? 2 : 4;
}

/// Where the products of some vectors go. Kernels write fp32 into `products`, bias included, and
/// each piece is finished once, while it is in cache: factors of rows and the bias that then comes
/// after them, residual, activation, y's type.
struct Outputs {
    float* products = nullptr;    // [vectors, rows]; the memory of y where that is fp32
    std::span<const float> bias;  // empty or [rows]: what kernels add
    std::size_t rows = 0;
    epilogue::Apply kernel = nullptr;
    Activation activation = Activation::none;
    const float* factors = nullptr;      // [rows]
    const float* scaled_bias = nullptr;  // [rows]: what comes after the factors
    const void* residual = nullptr;      // [vectors, rows]
    FloatType residual_type = FloatType::float32;
    void* y = nullptr;  // [vectors, rows]
    FloatType y_type = FloatType::float32;

    /// The same without the first `count` vectors.
    [[nodiscard]] Outputs past(std::size_t count) const noexcept;

    /// Whether finishing changes anything, or products are y as they are.
    [[nodiscard]] bool needs_epilogue() const noexcept {
        return products != y || activation != Activation::none || residual != nullptr ||
               factors != nullptr;
    }

    /// Finishes the rows [row_begin, row_end) of a vector.
    void apply_epilogue(std::size_t vector, std::size_t row_begin,
                        std::size_t row_end) const noexcept {
        const std::size_t at = vector * rows + row_begin;
        apply_to_rows(products + at, at, row_begin, row_end - row_begin);
    }

    /// Finishes `count` products that lie elsewhere, as those from `at` on; there are no factors.
    void apply_epilogue_at(const float* from, std::size_t at, std::size_t count) const noexcept {
        apply_to_rows(from, at, 0, count);
    }

private:
    void apply_to_rows(const float* from, std::size_t at, std::size_t row,
                       std::size_t count) const noexcept;
};

/// Outputs of rows * vectors products into y; `products` is y's memory, or left to the caller where
/// y is of another type. `wide_bias` [rows] takes a bias of another type; `factors` of the rows
/// are empty or [rows].
[[nodiscard]] Outputs make_outputs(Isa isa, std::size_t rows, const Epilogue& epilogue,
                                   std::span<float> wide_bias, FloatSpan y,
                                   std::span<const float> factors = {}) noexcept;

/// fp32 elements of a view: its own memory, or `scratch`, which is filled.
[[nodiscard]] std::span<const float> as_float(FloatView view, std::span<float> scratch) noexcept;

/// The part [begin, begin + count) of a view.
[[nodiscard]] FloatView part_of(FloatView view, std::size_t begin, std::size_t count) noexcept;

}  // namespace tersor::spmm
