#include "spmm/make_sliding.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>
#include <vector>

#include "tersor/parallel.hpp"

namespace tersor::spmm {
namespace {

constexpr std::uint32_t past_end = UINT32_MAX;

/// Slices that one thread fills at a time.
constexpr std::size_t slices_per_group = 8;

/// Rows that advance alike come together: by their number of entries in bands, and inside a band by
/// how far half of their entries reach.
std::vector<std::uint32_t> order_rows(const std::vector<RowFacts>& facts) {
    std::vector<std::uint32_t> order(facts.size());
    std::iota(order.begin(), order.end(), 0U);
    std::stable_sort(order.begin(), order.end(), [&](std::uint32_t a, std::uint32_t b) {
        return facts[a].nonzeros > facts[b].nonzeros;
    });
    const double slices = static_cast<double>(order.size()) / slice_rows;
    const std::size_t band =
        slice_rows * std::max<std::size_t>(1, static_cast<std::size_t>(std::sqrt(slices)));
    for (std::size_t begin = 0; begin < order.size(); begin += band) {
        const std::size_t end = std::min(begin + band, order.size());
        std::stable_sort(order.begin() + static_cast<std::ptrdiff_t>(begin),
                         order.begin() + static_cast<std::ptrdiff_t>(end),
                         [&](std::uint32_t a, std::uint32_t b) {
                             return facts[a].middle_column < facts[b].middle_column;
                         });
    }
    return order;
}

/// Makes the steps of one slice after the other.
template <class Source>
class StepWriter {
public:
    StepWriter(const Source& source, SlidingShape shape, bool nibbles, TakeStep take)
        : source_(source), shape_(shape), nibbles_(nibbles), take_(take) {}

    void add_slice(const std::uint32_t* rows, std::size_t row_count, std::size_t nonzeros) {
        read_rows(rows, row_count, nonzeros);
        std::uint32_t left = past_end;
        for (const std::uint32_t at : next_) left = std::min(left, columns_[at]);
        alignas(64) std::array<std::uint8_t, step_slots> codes;
        const std::size_t pair_size = pair_bytes(nibbles_);
        bool second = false;
        for (; left != past_end; second = !second) {
            if (!second) entries_.resize(entries_.size() + pair_size);
            std::uint8_t* pair = entries_.data() + entries_.size() - pair_size;
            std::uint8_t* to = pair + (nibbles_ || !second ? 2 : 3) * step_slots;
            const std::uint32_t window = left / shape_.window_grain;
            left = take_(columns_.data(), codes_.data(), next_.data(), window * shape_.window_grain,
                         shape_.window_columns, pair + (second ? step_slots : 0), codes.data());
            const int shift = second && nibbles_ ? 4 : 0;
            for (std::size_t i = 0; i < step_slots; ++i) {
                to[i] = static_cast<std::uint8_t>(to[i] | codes[i] << shift);
            }
            windows_.push_back(static_cast<std::uint16_t>(window));
        }
        if (second) windows_.push_back(0);
    }

    void reserve(std::size_t nonzeros) {
        const std::size_t pairs = nonzeros / (2 * step_slots) * 5 / 4;
        entries_.reserve(pairs * pair_bytes(nibbles_));
        windows_.reserve(2 * pairs);
    }

    [[nodiscard]] const std::vector<std::uint8_t>& entries() const noexcept { return entries_; }
    [[nodiscard]] const std::vector<std::uint16_t>& windows() const noexcept { return windows_; }

private:
    /// All entries of the rows, each row ended by columns past every window.
    void read_rows(const std::uint32_t* rows, std::size_t row_count, std::size_t nonzeros) {
        const std::size_t size = nonzeros + slice_rows * (row_slots + read_slack);
        columns_.resize(std::max(columns_.size(), size));
        codes_.resize(std::max(codes_.size(), size));
        std::size_t at = 0;
        for (std::size_t r = 0; r < slice_rows; ++r) {
            next_[r] = static_cast<std::uint32_t>(at);
            if (r < row_count)
                at += source_.read(rows[r], columns_.data() + at, codes_.data() + at);
            for (std::size_t k = 0; k < row_slots; ++k) {
                columns_[at + k] = past_end;
                codes_[at + k] = 0;
            }
            at += row_slots;
        }
    }

    const Source& source_;
    SlidingShape shape_;
    bool nibbles_;
    TakeStep take_;
    std::array<std::uint32_t, slice_rows> next_{};
    std::vector<std::uint32_t> columns_;
    std::vector<std::uint8_t> codes_;
    std::vector<std::uint8_t> entries_;
    std::vector<std::uint16_t> windows_;
};

/// Fills entries, windows and slice starts; `facts` and the row order are known.
template <class Source>
void fill_slices(const Source& source, const std::vector<RowFacts>& facts, TakeStep take,
                 int threads, Sliding& layout) {
    const std::size_t rows = facts.size();
    const std::size_t slices = (rows + slice_rows - 1) / slice_rows;
    const std::size_t groups = (slices + slices_per_group - 1) / slices_per_group;
    std::vector<StepWriter<Source>> writers(
        groups, StepWriter<Source>(source, layout.shape, layout.nibbles(), take));
    layout.slice_starts.assign(slices + 1, 0);
    parallel_for(groups, 1, threads, [&](std::size_t begin, std::size_t end) noexcept {
        for (std::size_t g = begin; g < end; ++g) {
            const std::size_t last = std::min(slices, (g + 1) * slices_per_group);
            for (std::size_t s = g * slices_per_group; s < last; ++s) {
                const std::uint32_t* order = layout.row_order.data() + s * slice_rows;
                const std::size_t count = std::min(slice_rows, rows - s * slice_rows);
                std::size_t nonzeros = 0;
                for (std::size_t r = 0; r < count; ++r) nonzeros += facts[order[r]].nonzeros;
                if (s == g * slices_per_group) writers[g].reserve(nonzeros * (last - s));
                writers[g].add_slice(order, count, nonzeros);
                // Relative to the group until all groups are known.
                layout.slice_starts[s + 1] =
                    static_cast<std::uint32_t>(writers[g].windows().size() / 2);
            }
        }
    });
    std::vector<std::size_t> first_pair(groups + 1, 0);
    for (std::size_t g = 0; g < groups; ++g) {
        first_pair[g + 1] = first_pair[g] + writers[g].windows().size() / 2;
    }
    for (std::size_t s = 0; s < slices; ++s) {
        layout.slice_starts[s + 1] += static_cast<std::uint32_t>(first_pair[s / slices_per_group]);
    }
    const std::size_t pair_size = pair_bytes(layout.nibbles());
    layout.entries = support::AlignedBuffer<std::uint8_t>(first_pair[groups] * pair_size);
    layout.windows = support::AlignedBuffer<std::uint16_t>(first_pair[groups] * 2);
    parallel_for(groups, 1, threads, [&](std::size_t begin, std::size_t end) noexcept {
        for (std::size_t g = begin; g < end; ++g) {
            std::copy(writers[g].entries().begin(), writers[g].entries().end(),
                      layout.entries.data() + first_pair[g] * pair_size);
            std::copy(writers[g].windows().begin(), writers[g].windows().end(),
                      layout.windows.data() + first_pair[g] * 2);
        }
    });
}

/// Adds values of the codes up over every row, in row order: a product with ones.
class RowSums {
public:
    RowSums(const Sliding& layout, std::uint32_t cols, Isa isa, int threads)
        : layout_(layout),
          multiply_(kernels(isa).multiply_sliding),
          threads_(threads),
          stride_(plane_bytes(cols)),
          ones_(max_digits * stride_) {}

    [[nodiscard]] std::vector<float> of(const Digits& values) {
        // A one in the first digit alone: no product is dropped.
        const int count = values.count;
        for (int p = 0; p < count; ++p) {
            std::fill_n(ones_.data() + static_cast<std::size_t>(p) * stride_, stride_,
                        p == count - 1 ? std::uint8_t{1} : std::uint8_t{0});
        }
        const FixedActivations x{ones_.data(), stride_, 0.0,
                                 std::ldexp(1.0, -values.bits * (count - 1))};
        std::vector<float> by_row(layout_.row_order.size());
        parallel_for(layout_.slices(), 1, threads_,
                     [&](std::size_t begin, std::size_t end) noexcept {
                         multiply_(layout_, values, Arithmetic{count, count, count - 1}, &x, 1,
                                   nullptr, by_row.data(), begin, end);
                     });
        std::vector<float> sums(layout_.slices() * slice_rows, 0.0F);
        for (std::size_t i = 0; i < by_row.size(); ++i) sums[i] = by_row[layout_.row_order[i]];
        return sums;
    }

private:
    const Sliding& layout_;
    MultiplySliding multiply_;
    int threads_;
    std::size_t stride_;
    support::AlignedBuffer<std::uint8_t> ones_;
};

/// Values in two digits, none of them smaller than it was (larger with `up` false).
Digits split_towards(std::span<const double> values, bool up, int bits) {
    const double unit = split_values(values, 2, bits).unit;
    std::vector<double> rounded(values.begin(), values.end());
    for (double& value : rounded) {
        if (unit > 0.0) value = (up ? std::ceil(value / unit) : std::floor(value / unit)) * unit;
    }
    return split_values(rounded, 2, bits);
}

/// Sums of the rows' weights as the digits express them, and the error of the worst row.
void describe_rows(std::span<const float> codebook, std::uint32_t cols, Isa isa, int threads,
                   Sliding& layout) {
    RowSums sums(layout, cols, isa, threads);
    const int bits = layout.shape.digit_bits;
    for (std::size_t d = 0; d < layout.digits.size(); ++d) {
        layout.digits[d] = split_codebook(codebook, static_cast<int>(d) + 1, bits);
        layout.sums[d] = sums.of(layout.digits[d]);
    }
    std::vector<double> values(codebook.size());
    std::transform(codebook.begin(), codebook.end(), values.begin(),
                   [](float w) { return std::abs(double{w}); });
    // Rounded to the safe side. A row all of whose weights round to 0 has an infinite error.
    const std::vector<float> magnitudes = sums.of(split_towards(values, false, bits));
    const auto worst_row = [&](Arithmetic arithmetic, double range) {
        const auto digits = static_cast<std::size_t>(arithmetic.w_digits - 1);
        const auto errors = product_errors(codebook, layout.digits[digits], arithmetic, range);
        std::copy_n(errors.begin(), values.size(), values.begin());
        const std::vector<float> wrong = sums.of(split_towards(values, true, bits));
        double worst = 0.0;
        for (std::size_t i = 0; i < wrong.size(); ++i) {
            if (wrong[i] > 0.0F) worst = std::max(worst, double{wrong[i]} / magnitudes[i]);
        }
        return worst;
    };
    for (std::size_t a = 0; a < arithmetics.size(); ++a) {
        layout.errors[a] = worst_row(arithmetics[a], 2.0);
        layout.positive_errors[a] =
            arithmetics[a].x_digits < 3 ? worst_row(arithmetics[a], 1.0) : layout.errors[a];
    }
}

template <class Source>
Sliding make(const Source& source, std::uint32_t rows, std::uint32_t cols,
             std::span<const float> codebook, Isa isa, int threads) {
    Sliding layout;
    layout.shape = sliding_shape(isa);
    layout.codes = codebook.size();
    std::vector<RowFacts> facts(rows);
    parallel_for(rows, 64, threads, [&](std::size_t begin, std::size_t end) noexcept {
        for (std::size_t r = begin; r < end; ++r) facts[r] = source.facts(r);
    });
    layout.row_order = order_rows(facts);
    fill_slices(source, facts, kernels(isa).take_step, threads, layout);
    describe_rows(codebook, cols, isa, threads, layout);
    return layout;
}

}  // namespace

Sliding make_sliding(const CsrRows& source, std::uint32_t rows, std::uint32_t cols,
                     std::span<const float> codebook, Isa isa, int threads) {
    return make(source, rows, cols, codebook, isa, threads);
}

Sliding make_sliding(const Rows16Rows& source, std::uint32_t rows, std::uint32_t cols,
                     std::span<const float> codebook, Isa isa, int threads) {
    return make(source, rows, cols, codebook, isa, threads);
}

}  // namespace tersor::spmm
