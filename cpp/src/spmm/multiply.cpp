// Products: which kernel serves a call.
#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "spmm/kernels.hpp"
#include "spmm/layout.hpp"
#include "spmm/multiply_panels.hpp"
#include "tersor/parallel.hpp"
#include "tersor/spmm.hpp"

namespace tersor::spmm {
namespace {

constexpr std::size_t row_grain = 64;

/// Work below which a second thread costs more than it brings, in non-zeros times activations.
constexpr std::size_t parallel_from = 1U << 15;

/// Vectors from which a panel, of which a part stays empty, is faster than what else there is: the
/// gathers of fp32, or the fixed-point arithmetic of a class.
constexpr std::size_t panel_from(Isa isa, std::optional<Arithmetic> arithmetic) noexcept {
    if (!arithmetic.has_value()) return 4;
    if (isa == Isa::avx2) return 6;
    if (arithmetic == Arithmetic{3, 3, 2}) return 12;
    if (arithmetic == finest_arithmetic) return 10;
    return SIZE_MAX;
}

/// Vectors whose digits are made at a time.
constexpr std::size_t items_at_once = 8;

/// Ranges of x outside of which its scale would leave fp32's normal numbers.
constexpr float smallest_range = 0x1p-90F;
constexpr float largest_range = 0x1p100F;

/// Vectors from which a panel of digits, always 64 wide, beats the sliding kernel.
constexpr std::size_t digit_panel_from = 36;

int worthwhile_threads(const PackedMatrix& packed, std::size_t batch, int threads) noexcept {
    return packed.nonzeros() * batch < parallel_from ? 1 : threads;
}

void multiply_one(const PackedMatrix::Layout& layout, const float* x, std::span<const float> bias,
                  float* y, int threads) {
    const Kernels& kernel = kernels(layout.isa);
    const Rows16& rows16 = layout.rows16();
    parallel_for(layout.rows, row_grain, threads, [&](std::size_t begin, std::size_t end) noexcept {
        for (std::size_t r = begin; r < end; ++r) y[r] = bias.empty() ? 0.0F : bias[r];
        for (std::size_t b = 0; b < rows16.blocks.size(); ++b) {
            kernel.multiply_vector(layout.view(rows16, b), x + b * block_columns, y, begin, end);
        }
    });
}

/// The cheapest arithmetic that meets the class for every row; none where fp32 has to do it.
std::optional<Arithmetic> choose_arithmetic(const Sliding* layout, Precision precision,
                                            bool positive) noexcept {
    if (layout == nullptr) return std::nullopt;
    if (precision == Precision::highest) {
        // With digits of 7 bits too many rows would have to be computed again.
        return layout->shape.digit_bits == 8 ? std::optional(finest_arithmetic) : std::nullopt;
    }
    for (std::size_t a = 0; a < arithmetics.size(); ++a) {
        const double error = positive ? layout->positive_errors[a] : layout->errors[a];
        if (error <= error_limit(precision)) return arithmetics[a];
    }
    return std::nullopt;
}

/// Whether fp32 can scale the vector: it is finite, and its range neither too small nor too large.
bool fits_fixed_point(const Range& range) noexcept {
    const float width = range.high - range.low;
    return range.finite && (width == 0.0F || (width >= smallest_range && width <= largest_range));
}

void multiply_fixed(const PackedMatrix::Layout& layout, const Sliding& sliding,
                    Arithmetic arithmetic, std::span<const Range> ranges, const float* x,
                    std::span<const float> bias, float* y, int threads) {
    const Kernels& kernel = kernels(layout.isa);
    const std::size_t stride = plane_bytes(layout.cols);
    const std::size_t item_bytes = static_cast<std::size_t>(arithmetic.x_digits) * stride;
    const bool finest = arithmetic == finest_arithmetic;
    support::AlignedBuffer<std::uint8_t> digits(ranges.size() * item_bytes);
    std::array<FixedActivations, items_at_once> fixed;
    for (std::size_t n = 0; n < ranges.size(); ++n) {
        const Range& range = ranges[n];
        const FixedScale scale = scale_of(range, arithmetic.x_digits, sliding.shape.digit_bits);
        std::uint8_t* planes = digits.data() + n * item_bytes;
        kernel.split_activations(x + n * layout.cols, layout.cols, range.low, scale.factor,
                                 arithmetic.x_digits, planes, stride);
        fixed[n] = {planes, stride, range.low, scale.unit,
                    finest ? layout.highest_rows().sum_rests.data() : nullptr};
    }
    const Digits& weights = sliding.digits[static_cast<std::size_t>(arithmetic.w_digits - 1)];

    // Pieces of equal work: slices differ in length, and are sorted by it.
    const std::vector<std::uint32_t>& starts = sliding.slice_starts;
    const auto pieces = static_cast<std::size_t>(std::max(threads, 1));
    const auto slice_of_piece = [&](std::size_t piece) {
        if (piece == pieces) return sliding.slices();
        const std::uint64_t work = std::uint64_t{starts.back()} * piece / pieces;
        return static_cast<std::size_t>(std::lower_bound(starts.begin(), starts.end(), work) -
                                        starts.begin());
    };
    parallel_for(pieces, 1, threads, [&](std::size_t begin, std::size_t end) noexcept {
        kernel.multiply_sliding(sliding, weights, arithmetic, fixed.data(), ranges.size(),
                                finest || bias.empty() ? nullptr : bias.data(), y,
                                slice_of_piece(begin), slice_of_piece(end));
    });
    if (!finest) return;
    for (std::size_t n = 0; n < ranges.size(); ++n) {
        const float* vector = x + n * layout.cols;
        float* out = y + n * layout.rows;
        const double largest = std::max(-double{ranges[n].low}, double{ranges[n].high});
        if (!mend_rows(sliding, layout.highest_rows(), layout.codebook, vector, largest, out)) {
            multiply_one(layout, vector, bias, out, threads);
        } else {
            for (std::size_t r = 0; r < bias.size(); ++r) out[r] += bias[r];
        }
    }
}

void multiply_batch(const PackedMatrix::Layout& layout, const float* x, std::size_t batch,
                    std::span<const float> bias, float* y, int threads) {
    const Kernels& kernel = kernels(layout.isa);
    const Rows16& rows16 = layout.rows16();
    const std::size_t cols = layout.cols;
    const std::size_t rows = layout.rows;
    support::AlignedBuffer<float> panel(cols * panel_lanes);
    support::AlignedBuffer<float> sums(rows * panel_lanes);
    std::vector<std::size_t> offsets(std::min<std::size_t>(cols, block_columns));
    for (std::size_t k = 0; k < offsets.size(); ++k) offsets[k] = k * panel_lanes;

    for (std::size_t first = 0; first < batch; first += panel_lanes) {
        const std::size_t lanes = std::min(panel_lanes, batch - first);
        parallel_for(cols, row_grain, threads, [&](std::size_t begin, std::size_t end) noexcept {
            for (std::size_t lane = 0; lane < lanes; ++lane) {
                const float* source = x + (first + lane) * cols;
                for (std::size_t k = begin; k < end; ++k) {
                    panel[k * panel_lanes + lane] = source[k];
                }
            }
        });
        parallel_for(rows, row_grain, threads, [&](std::size_t begin, std::size_t end) noexcept {
            for (std::size_t r = begin; r < end; ++r) {
                std::fill_n(sums.data() + r * panel_lanes, panel_lanes,
                            bias.empty() ? 0.0F : bias[r]);
            }
            for (std::size_t b = 0; b < rows16.blocks.size(); ++b) {
                kernel.multiply_panel(layout.view(rows16, b),
                                      panel.data() + b * block_columns * panel_lanes,
                                      offsets.data(), sums.data(), panel_lanes, begin, end);
            }
            for (std::size_t lane = 0; lane < lanes; ++lane) {
                float* target = y + (first + lane) * rows;
                for (std::size_t r = begin; r < end; ++r) {
                    target[r] = sums[r * panel_lanes + lane];
                }
            }
        });
    }
}

/// 0 * NaN and 0 * infinity are NaN: a row of the dense layer that has a pruned weight for one of
/// the activations that are not finite gives NaN. `y` holds the product without pruned weights.
void spread_not_finite(const PackedMatrix::Layout& layout, const float* x, float* y) {
    const Rows16& rows16 = layout.rows16();
    const auto all = std::count_if(x, x + layout.cols, [](float v) { return !std::isfinite(v); });
    for (std::size_t r = 0; r < layout.rows; ++r) {
        std::ptrdiff_t read = 0;
        for (std::size_t b = 0; b < rows16.blocks.size(); ++b) {
            const BlockView block = layout.view(rows16, b);
            for (std::uint64_t i = block.row_starts[r]; i < block.row_starts[r + 1]; ++i) {
                read += std::isfinite(x[b * block_columns + block.columns[i]]) ? 0 : 1;
            }
        }
        if (read != all) y[r] = std::numeric_limits<float>::quiet_NaN();
    }
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

/// A vector that neither fixed point nor a panel serves.
void multiply_strange(const PackedMatrix::Layout& layout, const Range& range, const float* x,
                      std::span<const float> bias, float* y, int threads) {
    multiply_one(layout, x, bias, y, threads);
    if (!range.finite) spread_not_finite(layout, x, y);
}

/// Products in panels of digits, as long as enough vectors are left; returns their number.
std::size_t multiply_in_digit_panels(const PackedMatrix::Layout& layout, const float* x,
                                     std::size_t batch, std::span<const float> bias, float* y,
                                     int threads) {
    if (batch < digit_panel_from) return 0;
    const Panels* panels = layout.digit_panels();
    if (panels == nullptr) return 0;
    const Sliding& sliding = *layout.sliding();
    std::vector<float> row_sums(layout.rows);
    for (std::size_t i = 0; i < row_sums.size(); ++i) {
        row_sums[sliding.row_order[i]] = sliding.sums[0][i];
    }
    const ActivationRange range_of = kernels(layout.isa).activation_range;
    std::size_t first = 0;
    while (batch - first >= digit_panel_from) {
        const float* vectors = x + first * layout.cols;
        float* out = y + first * layout.rows;
        std::array<Range, digit_lanes> ranges;
        const std::size_t count = std::min(digit_lanes, batch - first);
        for (std::size_t n = 0; n < count; ++n) {
            ranges[n] = range_of(vectors + n * layout.cols, layout.cols);
        }
        multiply_digit_panels(layout, *panels, vectors, std::span(ranges).first(count), row_sums,
                              bias, out, threads);
        for (std::size_t n = 0; n < count; ++n) {
            if (fits_fixed_point(ranges[n])) continue;
            multiply_strange(layout, ranges[n], vectors + n * layout.cols, bias,
                             out + n * layout.rows, threads);
        }
        first += count;
    }
    return first;
}

void check_size(std::size_t size, std::size_t expected, const char* what) {
    if (size != expected) {
        throw std::invalid_argument(std::string("multiply: ") + what + " has " +
                                    std::to_string(size) + " elements, expected " +
                                    std::to_string(expected));
    }
}

}  // namespace

void multiply(const PackedMatrix& packed, std::span<const float> x, std::size_t batch,
              std::span<const float> bias, std::span<float> y, Precision precision, int threads) {
    check_size(x.size(), batch * packed.cols(), "x");
    check_size(y.size(), batch * packed.rows(), "y");
    if (!bias.empty()) check_size(bias.size(), packed.rows(), "bias");
    if (batch == 0 || packed.rows() == 0) return;
    threads = worthwhile_threads(packed, batch, threads);
    const PackedMatrix::Layout& layout = packed.layout();
    const ActivationRange range_of = kernels(layout.isa).activation_range;
    const Sliding* sliding = layout.sliding();
    const std::optional<Arithmetic> arithmetic = choose_arithmetic(sliding, precision, false);
    std::size_t in_panels = vectors_in_panels(layout, batch, precision, arithmetic);
    if (in_panels > 0) {
        if (layout.codebook_size > 0) {
            multiply_panels(layout, *layout.panels(), x.data(), in_panels, bias, y.data(), threads);
        } else {
            multiply_batch(layout, x.data(), in_panels, bias, y.data(), threads);
        }
        for (std::size_t n = 0; n < in_panels; ++n) {
            const float* vector = x.data() + n * layout.cols;
            if (range_of(vector, layout.cols).finite) continue;
            spread_not_finite(layout, vector, y.data() + n * layout.rows);
        }
    }
    if (arithmetic == Arithmetic{1, 1, 0} && in_panels == 0) {
        in_panels = multiply_in_digit_panels(layout, x.data(), batch, bias, y.data(), threads);
    }
    for (std::size_t first = in_panels; first < batch;) {
        const float* vectors = x.data() + first * layout.cols;
        float* out = y.data() + first * layout.rows;
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
                           std::span(ranges).first(items), vectors, bias, out, threads);
        } else {
            multiply_strange(layout, ranges[0], vectors, bias, out, threads);
        }
        first += std::max<std::size_t>(items, 1);
    }
}

}  // namespace tersor::spmm
