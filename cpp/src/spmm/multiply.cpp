// Products: which kernel serves a call.
#include <algorithm>
#include <array>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "spmm/activations/kernels.hpp"
#include "spmm/csr16/multiply.hpp"
#include "spmm/dense_codes/multiply.hpp"
#include "spmm/dispatch.hpp"
#include "spmm/epilogue/outputs.hpp"
#include "spmm/factors.hpp"
#include "spmm/packed_matrix.hpp"
#include "spmm/panels/multiply.hpp"
#include "spmm/sell/multiply.hpp"
#include "spmm/tiles/multiply.hpp"
#include "support/checked_size.hpp"
#include "support/prefetch.hpp"
#include "support/scratch.hpp"
#include "tersor/spmm.hpp"

namespace tersor::spmm {
namespace {

/// Work below which a second thread costs more than it brings, in non-zeros times activations.
constexpr std::size_t parallel_from = 1U << 15;

/// Vectors that pass through memory of the call together where x or y is of another type than fp32,
/// or x has factors.
constexpr std::size_t converted_vectors = 64;

/// Vectors as they are multiplied: x itself, or `scratch`, which is filled.
std::span<const float> read_vectors(const PackedMatrix::Layout& layout, FloatView x,
                                    std::span<float> scratch, int threads) {
    if (layout.column_factors.size() == 0) return as_float(x, scratch);
    scale_columns(layout, x, scratch, threads);
    return scratch.first(x.size);
}

int worthwhile_threads(const PackedMatrix& packed, std::size_t batch, int threads) noexcept {
    return packed.nonzeros() * batch < parallel_from ? 1 : threads;
}

/// Asks for what a product with one vector begins with, and for the translation of the pages that
/// it needs later: from a cold start it would wait for each of them in turn.
void prefetch_start(const Sell& sell, std::span<const float> x,
                    std::span<float> products) noexcept {
    constexpr std::size_t first_bytes = 4096;
    constexpr std::size_t page_floats = 1024;
    support::prefetch(sell.entries.data(), std::min(first_bytes, sell.entries.nbytes()));
    for (std::size_t i = 0; i < x.size(); i += page_floats) support::prefetch(&x[i], 1);
    for (std::size_t i = 0; i < products.size(); i += page_floats) {
        support::prefetch(&products[i], 1);
    }
    support::prefetch(sell.advances.data(), 1);
    support::prefetch(sell.sums.data(), 1);
    support::prefetch(sell.row_order.data(), 1);
}

/// The vectors that fixed point takes next, in one arithmetic; none where the first does not fit.
struct Run {
    std::size_t items = 0;
    bool positive = false;  // no element of theirs is negative
};

Run next_run(const PackedMatrix::Layout& layout, const float* x, std::size_t batch,
             std::span<Range, items_at_once> ranges) {
    const activations::RangeOf range_of = activations::kernels(layout.isa).range;
    Run run;
    const std::size_t end = std::min(batch, items_at_once);
    while (run.items < end) {
        const std::size_t most = std::min(items_alike, end - run.items);
        std::size_t n = 0;
        bool positive = true;
        for (; n < most; ++n) {
            Range& range = ranges[run.items + n];
            range = range_of(x + (run.items + n) * layout.cols, layout.cols);
            if (!fits_fixed_point(*layout.sell(), range)) break;
            positive &= range.low == 0.0F;
        }
        if (n == 0 || (run.items > 0 && positive != run.positive)) break;
        run = {run.items + n, positive};
        if (n < most) break;
    }
    return run;
}

/// Products of fp32 vectors with integers as floats, in runs of vectors that fit.
void multiply_floats(const PackedMatrix::Layout& layout, const float* x, std::size_t batch,
                     const Outputs& out, int threads) {
    const activations::RangeOf range_of = activations::kernels(layout.isa).range;
    const Sell& sell = *layout.sell();
    for (std::size_t first = 0; first < batch;) {
        std::size_t end = first;
        while (end < batch && fits_as_floats(sell, range_of(x + end * layout.cols, layout.cols))) {
            ++end;
        }
        if (end > first) {
            multiply_as_floats(layout, sell, x + first * layout.cols, end - first, out.past(first),
                               threads);
        } else {
            multiply_gathering(layout, x + first * layout.cols, out.past(first), threads);
            ++end;
        }
        first = end;
    }
}

/// Products of fp32 vectors, runs of them or one after the other.
void multiply_few(const PackedMatrix::Layout& layout, const Plan& plan, const float* x,
                  std::size_t batch, const Outputs& out, Precision precision, int threads) {
    const Sell* const sell = layout.sell();
    if (batch == 1 && sell != nullptr) {
        prefetch_start(*sell, {x, layout.cols}, {out.products, layout.rows});
    }
    const Arithmetic for_any = plan.arithmetic.value_or(arithmetics.back());
    std::array<Range, items_at_once> ranges;
    for (std::size_t first = 0; first < batch;) {
        const float* vectors = x + first * layout.cols;
        const Run run =
            plan.arithmetic.has_value() ? next_run(layout, vectors, batch - first, ranges) : Run{};
        if (run.items > 0) {
            // At least as cheap as the one for any x.
            const Arithmetic chosen =
                choose_arithmetic(sell, precision, run.positive).value_or(for_any);
            multiply_fixed(layout, *sell, chosen, std::span(ranges).first(run.items), vectors,
                           out.past(first), threads);
        } else {
            multiply_gathering(layout, vectors, out.past(first), threads);
        }
        first += std::max<std::size_t>(run.items, 1);
    }
}

/// Products of fp32 vectors.
void multiply_vectors(const PackedMatrix::Layout& layout, const float* x, std::size_t batch,
                      const Outputs& out, Precision precision, int threads) {
    const Plan plan = plan_for(layout, batch, precision, threads);
    if (plan.as_floats) {
        multiply_floats(layout, x, batch, out, threads);
        return;
    }
    if constexpr (has_tiles) {
        if (plan.in_tiles > 0 && plan.arithmetic.has_value()) {
            multiply_tiles(layout, *layout.tiles(), *plan.arithmetic, x, batch, out, threads);
            return;
        }
    }
    if (plan.in_panels > 0) {
        if (layout.codebook_size > 0) {
            multiply_panels(layout, *layout.panels(), x, plan.in_panels, out, threads);
        } else {
            multiply_csr16(layout, x, plan.in_panels, out, threads);
        }
    }
    if (has_byte_limbs && plan.in_limb_panels > 0) {
        multiply_limb_panels(layout, *layout.limb_panels(), x, plan.in_limb_panels, out, threads);
    }
    const std::size_t done = plan.in_panels + plan.in_limb_panels;
    if (done < batch) {
        multiply_few(layout, plan, x + done * layout.cols, batch - done, out.past(done), precision,
                     threads);
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
    const bool readable = x.type == FloatType::float32 && layout.column_factors.size() == 0;
    const bool wide_y = y.type == FloatType::float32;
    const std::size_t group = readable && wide_y ? batch : std::min(batch, converted_vectors);
    const support::Scratch<float> vectors(readable ? 0 : group * cols);
    const support::Scratch<float> products(wide_y ? 0 : group * rows);
    std::vector<float> bias(epilogue.bias.type == FloatType::float32 ? 0 : rows);
    Outputs out = make_outputs(layout.isa, rows, epilogue, bias, y, layout.row_factors);
    for (std::size_t first = 0; first < batch; first += group) {
        const std::size_t count = std::min(group, batch - first);
        const std::span<const float> source =
            read_vectors(layout, part_of(x, first * cols, count * cols), vectors, threads);
        if (!wide_y) out.products = products.data();
        multiply_vectors(layout, source.data(), count, out, precision, threads);
        out = out.past(count);
    }
}

void prepare(const PackedMatrix& packed, std::size_t batch, Precision precision, int threads) {
    if (batch == 0 || packed.rows() == 0) return;
    const PackedMatrix::Layout& layout = packed.layout();
    const Plan plan = plan_for(layout, batch, precision, threads);
    if (plan.as_floats) return;
    const std::size_t alone = batch - plan.in_tiles - plan.in_panels - plan.in_limb_panels;
    if (has_byte_limbs && plan.arithmetic == finest_arithmetic && plan.in_panels < batch) {
        static_cast<void>(layout.highest_rows());
    }
    // What gathers, or is not shared.
    const bool gathers = alone > 0 && !plan.arithmetic.has_value();
    if (gathers || (plan.in_panels > 0 && layout.codebook_size == 0)) {
        static_cast<void>(layout.csr16());
    }
}

void multiply(const PackedMatrix& packed, std::span<const float> x, std::size_t batch,
              std::span<const float> bias, std::span<float> y, Precision precision, int threads) {
    multiply(packed, FloatView(x), batch, Epilogue{bias, Activation::none, {}}, FloatSpan(y),
             precision, threads);
}

}  // namespace tersor::spmm
