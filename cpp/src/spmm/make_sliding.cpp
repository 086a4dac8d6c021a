// Filling the sliding layout. Rows are taken group by group, as many as fit into the second cache:
// there they are surveyed, put into an order in which those that advance alike share a slice, and
// taken slice by slice into scratch memory, whose place in the layout is then known.
#include "spmm/make_sliding.hpp"

#include <algorithm>
#include <array>
#include <atomic>
#include <utility>
#include <vector>

#include "spmm/order_rows.hpp"
#include "spmm/row_totals.hpp"
#include "spmm/slice_writer.hpp"
#include "tersor/parallel.hpp"

namespace tersor::spmm {
namespace {

constexpr std::size_t row_grain = 64;

/// Rows that are surveyed before any is weighed.
constexpr std::size_t some_rows = 16;

/// Entries of a group of rows. Larger groups leave fewer slots empty.
constexpr std::size_t entries_of_group = std::size_t{5} << 18;

/// Non-zeros that a thread takes at a time, at most: what they become stays in its second cache.
constexpr std::size_t nonzeros_at_once = std::size_t{1} << 16;

/// Makes the layout group by group.
template <class Source>
class SlidingMaker {
public:
    SlidingMaker(Source& source, std::uint32_t rows, std::span<const float> codebook, Isa isa,
                 int threads, Sliding& layout)
        : source_(source),
          kernels_(kernels(isa)),
          codebook_(codebook),
          rows_(rows),
          threads_(static_cast<std::size_t>(std::max(threads, 1))),
          layout_(layout) {
        layout_.shape = sliding_shape(isa);
        layout_.codes = codebook.size();
        for (std::size_t d = 0; d < layout_.digits.size(); ++d) {
            layout_.digits[d] =
                split_codebook(codebook, static_cast<int>(d) + 1, layout_.shape.digit_bits);
        }
        layout_.shape = shape_for(layout_.shape, layout_.codes, source.nonzeros(),
                                  std::uint64_t{rows} * source.cols());
        layout_.slice_starts.assign(1, 0);
        layout_.sums.assign((rows + slice_rows - 1) / slice_rows * slice_rows, 0.0F);
        writers_.reserve(threads_);
        for (std::size_t p = 0; p < threads_; ++p) {
            writers_.emplace_back(source, kernels_, layout_.shape, layout_.nibbles());
        }
    }

    /// False where the matrix is malformed.
    bool make() {
        const RowTotals totals(codebook_, layout_, kernels_.weigh_counts);
        const std::vector<std::size_t> bounds = group_bounds();
        for (std::size_t g = 0; g + 1 < bounds.size(); g += threads_) {
            const std::size_t last = std::min(g + threads_, bounds.size() - 1);
            const auto groups = std::span(bounds).subspan(g, last - g + 1);
            if (!source_.load(groups.front(), groups.back(), static_cast<int>(threads_)) ||
                !survey(totals, groups.front(), groups.back()) || nonzeros_ > source_.nonzeros()) {
                return false;
            }
            order(groups);
            fill(groups.front(), groups.back());
        }
        if (nonzeros_ != source_.nonzeros()) return false;
        const std::size_t pairs = layout_.slice_starts.back();
        layout_.entries.resize(pairs * pair_bytes(layout_.nibbles()));
        layout_.advances.resize(pairs * 2);
        return true;
    }

private:
    /// Groups of about as many entries each, of whole slices.
    std::vector<std::size_t> group_bounds() const {
        const std::size_t entries = source_.entries_before(rows_);
        const std::size_t groups = entries / entries_of_group + 1;
        std::vector<std::size_t> bounds{0};
        for (std::size_t r = slice_rows; r < rows_; r += slice_rows) {
            if (source_.entries_before(r) * groups >= bounds.size() * entries) bounds.push_back(r);
        }
        bounds.push_back(rows_);
        return bounds;
    }

    /// Checks the rows and finds out how they lie and what their weights add up to.
    bool survey(const RowTotals& totals, std::size_t first, std::size_t last) {
        facts_.resize(last - first);
        sums_.resize(last - first);
        std::vector<RowTotals::Worst> worst(facts_.size() / row_grain + 1, RowTotals::Worst{});
        std::atomic<bool> good{true};
        parallel_for(facts_.size(), row_grain, static_cast<int>(threads_),
                     [&](std::size_t begin, std::size_t end) noexcept {
                         // The sums of a row wait for each other: those of some rows do not.
                         std::array<std::array<std::uint32_t, 256>, some_rows> counts;
                         RowTotals::Worst here{};
                         for (std::size_t r = begin; r < end; r += some_rows) {
                             const std::size_t some = std::min(some_rows, end - r);
                             bool all_good = true;
                             for (std::size_t i = 0; i < some; ++i) {
                                 all_good &=
                                     source_.survey(first + r + i, facts_[r + i],
                                                    std::span(counts[i]).first(codebook_.size()));
                             }
                             if (!all_good) {
                                 good.store(false, std::memory_order_relaxed);
                                 return;
                             }
                             for (std::size_t i = 0; i < some; ++i) {
                                 sums_[r + i] = static_cast<float>(totals.add(
                                     std::span(counts[i]).first(codebook_.size()), here));
                             }
                         }
                         worst[begin / row_grain] = here;
                     });
        if (!good) return false;
        for (const RowTotals::Worst& some : worst) {
            for (std::size_t a = 0; a < arithmetics.size(); ++a) {
                layout_.errors[a] = std::max(layout_.errors[a], some[a]);
            }
        }
        for (const RowFacts& row : facts_) nonzeros_ += row.nonzeros();
        return true;
    }

    void order(std::span<const std::size_t> groups) {
        const std::size_t first = groups.front();
        std::vector<std::size_t> bounds;
        for (const std::size_t bound : groups) bounds.push_back(bound - first);
        const std::vector<std::uint32_t> rows =
            order_rows(facts_, bounds, kernels_, static_cast<int>(threads_));
        for (std::size_t i = 0; i < rows.size(); ++i) {
            layout_.sums[first + i] = sums_[rows[i]];
            layout_.row_order.push_back(static_cast<std::uint32_t>(first + rows[i]));
        }
    }

    /// Fills entries, advances and slice starts of the rows [first, last), whose order is known.
    /// Threads fill a few slices each, whose places are known when all have finished, and copy them
    /// there.
    void fill(std::size_t first, std::size_t last) {
        const std::size_t first_slice = first / slice_rows;
        const std::size_t slices = (last - first + slice_rows - 1) / slice_rows;
        const auto rows_of = [&](std::size_t slice) {
            const std::size_t row = first + slice * slice_rows;
            return std::span<const std::uint32_t>(layout_.row_order)
                .subspan(row, std::min(slice_rows, last - row));
        };
        std::vector<std::size_t> before(slices + 1, 0);  // non-zeros before each slice
        for (std::size_t s = 0; s < slices; ++s) {
            before[s + 1] = before[s];
            for (const std::uint32_t row : rows_of(s)) {
                before[s + 1] += facts_[row - first].nonzeros();
            }
        }
        const std::size_t rounds = before[slices] / (threads_ * nonzeros_at_once) + 1;
        const std::size_t at_once = before[slices] / (threads_ * rounds) + 1;
        layout_.slice_starts.resize(first_slice + slices + 1);
        std::vector<std::size_t> bounds(threads_ + 1, 0);  // of the slices of each thread
        while (bounds[0] < slices) {
            for (std::size_t p = 0; p < threads_; ++p) {
                const auto enough =
                    std::upper_bound(before.begin(), before.end(), before[bounds[p]] + at_once);
                const auto past = static_cast<std::size_t>(enough - before.begin()) - 1;
                bounds[p + 1] = std::min(slices, std::max(past, bounds[p] + 1));
            }
            std::uint32_t* const starts = layout_.slice_starts.data() + first_slice;
            parallel_for(
                threads_, 1, static_cast<int>(threads_),
                [&](std::size_t begin, std::size_t end) noexcept {
                    for (std::size_t p = begin; p < end; ++p) {
                        writers_[p].clear();
                        for (std::size_t s = bounds[p]; s < bounds[p + 1];) {
                            std::array<SliceRows, slices_together> some;
                            const std::size_t count = std::min(slices_together, bounds[p + 1] - s);
                            for (std::size_t i = 0; i < count; ++i) {
                                some[i] = {rows_of(s + i), before[s + i + 1] - before[s + i]};
                            }
                            const auto pairs = writers_[p].add_slices(std::span(some).first(count));
                            for (std::size_t i = 0; i < count; ++i) {
                                starts[++s] = static_cast<std::uint32_t>(pairs[i]);
                            }
                        }
                    }
                });
            for (std::size_t s = bounds[0]; s < bounds[threads_]; ++s) starts[s + 1] += starts[s];
            filled_ += before[bounds[threads_]] - before[bounds[0]];
            make_room(starts[bounds[threads_]]);
            parallel_for(threads_, 1, static_cast<int>(threads_),
                         [&](std::size_t begin, std::size_t end) noexcept {
                             for (std::size_t p = begin; p < end; ++p) {
                                 const std::size_t at = starts[bounds[p]];
                                 writers_[p].made().copy_to(
                                     layout_.entries.data() + at * pair_bytes(layout_.nibbles()),
                                     layout_.advances.data() + at * 2);
                             }
                         });
            bounds[0] = bounds[threads_];
        }
    }

    /// Room for `pairs`, and for the rest as well, if it is like what is there.
    void make_room(std::size_t pairs) {
        if (pairs * 2 <= layout_.advances.size()) return;
        const double whole = static_cast<double>(source_.nonzeros()) / static_cast<double>(filled_);
        const auto room = static_cast<std::size_t>(1.05 * whole * static_cast<double>(pairs)) + 64;
        layout_.entries.resize(room * pair_bytes(layout_.nibbles()));
        layout_.advances.resize(room * 2);
    }

    Source& source_;
    const Kernels& kernels_;
    std::span<const float> codebook_;
    std::size_t rows_;
    std::size_t threads_;
    Sliding& layout_;
    std::vector<SliceWriter<Source>> writers_;
    std::vector<RowFacts> facts_;  // of the rows at work
    std::vector<float> sums_;
    std::size_t nonzeros_ = 0;  // surveyed
    std::size_t filled_ = 0;    // in the layout
};

template <class Source>
bool make(Source& source, std::uint32_t rows, std::span<const float> codebook, Isa isa, int threads,
          Sliding& layout) {
    return SlidingMaker<Source>(source, rows, codebook, isa, threads, layout).make();
}

}  // namespace

bool make_sliding(CsrRows& source, std::uint32_t rows, std::span<const float> codebook, Isa isa,
                  int threads, Sliding& layout) {
    return make(source, rows, codebook, isa, threads, layout);
}

Sliding make_sliding(Rows16Rows& source, std::uint32_t rows, std::span<const float> codebook,
                     Isa isa, int threads) {
    Sliding layout;
    (void)make(source, rows, codebook, isa, threads, layout);
    return layout;
}

}  // namespace tersor::spmm
