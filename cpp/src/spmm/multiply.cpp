// Products: which kernel serves a call.
#include <algorithm>
#include <array>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "spmm/kernels.hpp"
#include "spmm/layout.hpp"
#include "spmm/multiply_panels.hpp"
#include "spmm/multiply_tiles.hpp"
#include "spmm/outputs.hpp"
#include "spmm/products.hpp"
#include "spmm/regime.hpp"
#include "support/checked_size.hpp"
#include "support/prefetch.hpp"
#include "tersor/spmm.hpp"

namespace tersor::spmm {
namespace {

/// Work below which a second thread costs more than it brings, in non-zeros times activations.
constexpr std::size_t parallel_from = 1U << 15;

/// Vectors that pass through fp32 together where x or y is of another type.
constexpr std::size_t converted_vectors = 64;

int worthwhile_threads(const PackedMatrix& packed, std::size_t batch, int threads) noexcept {
    return packed.nonzeros() * batch < parallel_from ? 1 : threads;
}

/// The cheapest arithmetic that meets the class for every row; none where fp32 has to do it.
std::optional<Arithmetic> choose_arithmetic(const Sliding* layout, Precision precision,
                                            bool positive) noexcept {
    if (layout == nullptr) return std::nullopt;
    if (precision == Precision::highest) {
        return layout->shape.digit_bits == 8 ? std::optional(finest_arithmetic) : std::nullopt;
    }
    for (std::size_t a = 0; a < arithmetics.size(); ++a) {
        const double error = positive ? error_of_positive(layout->errors[a]) : layout->errors[a];
        if (error <= error_limit(precision)) return arithmetics[a];
    }
    return std::nullopt;
}

/// Whether the roundings of the panel kernels stay within the class.
bool panels_meet(const Panels& panels, std::size_t cols, Precision precision) noexcept {
    if (precision == Precision::highest) return true;
    return static_cast<double>(panels.depth(cols)) * 0x1p-24 <= error_limit(precision);
}

/// How many of the vectors, from the first one on, the fp32 kernels for batches take.
std::size_t vectors_in_panels(const PackedMatrix::Layout& layout, std::size_t batch,
                              Precision precision, std::optional<Arithmetic> arithmetic) {
    const std::size_t least = panel_from(layout.isa, arithmetic);
    if (batch < least) return 0;
    if (layout.codebook_size > 0) {
        const Panels* panels = layout.panels();
        if (panels == nullptr) return 0;
        if (arithmetic.has_value() && !panels_meet(*panels, layout.cols, precision)) return 0;
    }
    std::size_t rest = batch;
    while (rest >= least) rest -= std::min(rest, lanes_for(rest));
    return batch - rest;
}

/// Whether panels take the whole batch whatever the rows are like: `high` and `highest` have one
/// arithmetic each, so that the layout for fixed point need not be made to know it.
bool panels_take_all(const PackedMatrix::Layout& layout, std::size_t batch, Precision precision) {
    if (precision != Precision::high && precision != Precision::highest) return false;
    return vectors_in_panels(layout, batch, precision, usual_arithmetic(layout.isa, precision)) ==
           batch;
}

/// The layout for matrix units, where the level has one and it is the fastest for the batch.
const Tiles* tiles_for(const PackedMatrix::Layout& layout, std::size_t batch, Precision precision) {
    if constexpr (!has_tiles) return nullptr;
    const std::optional<Arithmetic> usual = usual_arithmetic(layout.isa, precision);
    const bool wins =
        kernels(layout.isa).multiply_tiles != nullptr && usual.has_value() &&
        tiles_win(*usual, batch, layout.nonzeros, std::uint64_t{layout.rows} * layout.cols);
    return wins ? layout.tiles() : nullptr;
}

/// How many of the vectors, from the first one on, the panels of digits take.
std::size_t vectors_in_digit_panels(std::size_t batch) noexcept {
    const std::size_t rest = batch % digit_lanes;
    return rest >= digit_panel_from ? batch : batch - rest;
}

/// Asks for what a product with one vector begins with, and for the translation of the pages that
/// it needs later: from a cold start it would wait for each of them in turn.
void prefetch_start(const Sliding& sliding, std::span<const float> x,
                    std::span<float> products) noexcept {
    constexpr std::size_t first_bytes = 4096;
    constexpr std::size_t page_floats = 1024;
    support::prefetch(sliding.entries.data(), std::min(first_bytes, sliding.entries.nbytes()));
    for (std::size_t i = 0; i < x.size(); i += page_floats) support::prefetch(&x[i], 1);
    for (std::size_t i = 0; i < products.size(); i += page_floats) {
        support::prefetch(&products[i], 1);
    }
    support::prefetch(sliding.advances.data(), 1);
    support::prefetch(sliding.sums.data(), 1);
    support::prefetch(sliding.row_order.data(), 1);
}

/// Products of fp32 vectors.
void multiply_vectors(const PackedMatrix::Layout& layout, const float* x, std::size_t batch,
                      const Outputs& out, Precision precision, int threads) {
    if (const Tiles* tiles = tiles_for(layout, batch, precision)) {
        if (const auto arithmetic = choose_arithmetic(layout.sliding(), precision, false)) {
            multiply_tiles(layout, *tiles, *arithmetic, x, batch, out, threads);
            return;
        }
    }
    const ActivationRange range_of = kernels(layout.isa).activation_range;
    const Sliding* sliding = nullptr;
    std::optional<Arithmetic> arithmetic;
    std::size_t in_panels = batch;
    if (!panels_take_all(layout, batch, precision)) {
        sliding = layout.sliding();
        if (batch == 1 && sliding != nullptr) {
            prefetch_start(*sliding, {x, layout.cols}, {out.products, layout.rows});
        }
        arithmetic = choose_arithmetic(sliding, precision, false);
        in_panels = vectors_in_panels(layout, batch, precision, arithmetic);
    }
    if (in_panels > 0) {
        if (layout.codebook_size > 0) {
            multiply_panels(layout, *layout.panels(), x, in_panels, out, threads);
        } else {
            multiply_rows16(layout, x, in_panels, out, threads);
        }
    }
    const std::size_t in_digits = vectors_in_digit_panels(batch);
    if (arithmetic == Arithmetic{1, 1, 0} && in_panels == 0 && in_digits > 0) {
        if (const Panels* panels = layout.digit_panels()) {
            multiply_digit_panels(layout, *panels, x, in_digits, out, threads);
            in_panels = in_digits;
        }
    }
    for (std::size_t first = in_panels; first < batch;) {
        const float* vectors = x + first * layout.cols;
        // As many vectors as fixed point can take together, or one that it cannot.
        std::array<Range, items_at_once> ranges;
        std::size_t items = 0;
        while (items < std::min(items_at_once, batch - first)) {
            ranges[items] = range_of(vectors + items * layout.cols, layout.cols);
            if (!arithmetic.has_value() || !fits_fixed_point(ranges[items])) break;
            ++items;
        }
        if (arithmetic.has_value() && items > 0) {
            const bool positive = std::all_of(ranges.begin(), ranges.begin() + items,
                                              [](const Range& r) { return r.low == 0.0F; });
            // At least as cheap as the one for any x.
            const std::optional<Arithmetic> chosen =
                choose_arithmetic(sliding, precision, positive);
            multiply_fixed(layout, *sliding, chosen.value_or(*arithmetic),
                           std::span(ranges).first(items), vectors, out.past(first), threads);
        } else {
            multiply_gathering(layout, vectors, out.past(first), threads);
        }
        first += std::max<std::size_t>(items, 1);
    }
}

void check_size(std::size_t size, std::optional<std::size_t> expected, const char* what) {
    if (size != expected) {
        throw std::invalid_argument(
            std::string("multiply: ") + what + " has " + std::to_string(size) +
            " elements, expected " +
            (expected.has_value() ? std::to_string(*expected) : "more than memory can hold"));
    }
}

}  // namespace

void multiply(const PackedMatrix& packed, FloatView x, std::size_t batch, const Epilogue& epilogue,
              FloatSpan y, Precision precision, int threads) {
    const std::size_t rows = packed.rows();
    const std::size_t cols = packed.cols();
    check_size(x.size, support::checked_product(batch, cols), "x");
    check_size(y.size, support::checked_product(batch, rows), "y");
    if (epilogue.bias.size != 0) check_size(epilogue.bias.size, rows, "bias");
    if (epilogue.residual.size != 0) check_size(epilogue.residual.size, y.size, "residual");
    if (batch == 0 || rows == 0) return;
    threads = worthwhile_threads(packed, batch, threads);
    const PackedMatrix::Layout& layout = packed.layout();
    const bool wide_x = x.type == FloatType::float32;
    const bool wide_y = y.type == FloatType::float32;
    const std::size_t group = wide_x && wide_y ? batch : std::min(batch, converted_vectors);
    support::AlignedBuffer<float> vectors(wide_x ? 0 : group * cols, support::Fill::none);
    support::AlignedBuffer<float> products(wide_y ? 0 : group * rows, support::Fill::none);
    std::vector<float> bias(epilogue.bias.type == FloatType::float32 ? 0 : rows);
    Outputs out = make_outputs(kernels(layout.isa), rows, epilogue, bias, y);
    for (std::size_t first = 0; first < batch; first += group) {
        const std::size_t count = std::min(group, batch - first);
        const std::span<const float> source =
            as_float(part_of(x, first * cols, count * cols), vectors);
        if (!wide_y) out.products = products.data();
        multiply_vectors(layout, source.data(), count, out, precision, threads);
        out = out.past(count);
    }
}

void multiply(const PackedMatrix& packed, std::span<const float> x, std::size_t batch,
              std::span<const float> bias, std::span<float> y, Precision precision, int threads) {
    multiply(packed, FloatView(x), batch, Epilogue{bias, Activation::none, {}}, FloatSpan(y),
             precision, threads);
}

}  // namespace tersor::spmm
