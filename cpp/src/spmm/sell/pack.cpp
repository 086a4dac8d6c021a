// Filling the SELL layout. Each thread takes a group of rows: it takes their statistics, puts them
// into an order in which those that advance alike share a slice, and takes them slice by slice into
// scratch memory. What it looks at twice is in its own caches. When all have finished, the groups'
// places in the layout are known.
#include "spmm/sell/pack.hpp"

#include <algorithm>
#include <array>
#include <atomic>
#include <utility>
#include <vector>

#include "spmm/dense_codes/pack.hpp"
#include "spmm/sell/row_clustering.hpp"
#include "spmm/sell/row_totals.hpp"
#include "spmm/sell/slice_writer.hpp"
#include "tersor/parallel.hpp"

namespace tersor::spmm {
namespace {

/// Rows whose statistics are taken before any is weighed.
constexpr std::size_t rows_at_once = 16;

/// Entries of a group of rows, at most and at least. Larger groups leave fewer slots empty.
constexpr std::size_t most_entries = std::size_t{5} << 18;
constexpr std::size_t least_entries = std::size_t{1} << 17;

/// Pairs of steps that are copied into the layout at a time where their place is known: until then
/// they stay in the second cache.
constexpr std::size_t pairs_at_once = 512;

/// The entries and advances of a layout, to which pairs of steps come.
class PairsOfLayout {
public:
    /// The layout will hold `nonzeros`, brought by `threads` threads.
    PairsOfLayout(Sell& layout, std::size_t nonzeros, std::size_t threads)
        : layout_(layout), nonzeros_(nonzeros), side_by_side_(threads > 1) {}

    [[nodiscard]] std::size_t size() const noexcept { return pairs_; }

    /// Room for `pairs` more, which `nonzeros` became; and for all that follow, if they are like
    /// what is there.
    void grow(std::size_t pairs, std::size_t nonzeros) {
        pairs_ += pairs;
        filled_ += nonzeros;
        if (pairs_ * 2 <= layout_.advances.size()) return;
        const double whole = static_cast<double>(nonzeros_) / static_cast<double>(filled_);
        const auto room = static_cast<std::size_t>(1.05 * whole * static_cast<double>(pairs_)) + 64;
        resize(room);
        if (side_by_side_) layout_.entries.populate();
    }
    void put(const PairBuffer& pairs, std::size_t place) noexcept {
        pairs.copy_to(layout_.entries.data() + place * pair_bytes(layout_.nibbles()),
                      layout_.advances.data() + place * 2);
    }
    /// No room for more.
    void finish() { resize(pairs_); }

private:
    void resize(std::size_t pairs) {
        layout_.entries.resize(pairs * pair_bytes(layout_.nibbles()));
        layout_.advances.resize(pairs * 2);
    }

    Sell& layout_;
    std::size_t nonzeros_;
    bool side_by_side_;
    std::size_t pairs_ = 0;
    std::size_t filled_ = 0;  // non-zeros that they hold
};

/// What a thread makes of a group of rows.
class GroupMaker {
public:
    GroupMaker(const RowSource& source, const sell::Kernels& kernels, const Sell& layout)
        : source_(source),
          kernels_(kernels),
          codes_(layout.codes),
          writer_(source, kernels, layout.shape, layout.nibbles()) {}

    /// False where the matrix is malformed: a row is, or `nonzeros`, which are left for all groups,
    /// do not suffice. `end` is where the group goes, or nullptr where groups before it are not yet
    /// made.
    bool make(std::size_t first, std::size_t last, const RowTotals& totals,
              std::atomic<std::int64_t>& nonzeros, PairsOfLayout* end) {
        first_ = first;
        if (!take_statistics(last - first, totals)) return false;
        std::size_t all = 0;
        for (const RowStatistics& row : statistics_) all += row.nonzeros();
        const auto taken = static_cast<std::int64_t>(all);
        if (nonzeros.fetch_sub(taken, std::memory_order_relaxed) < taken) return false;
        order_ = cluster_rows(statistics_, kernels_);
        if (end == nullptr) writer_.reserve(all / step_slots);
        fill(end);
        return true;
    }

    /// What is not yet in the layout, and its non-zeros.
    [[nodiscard]] const PairBuffer& pairs() const noexcept { return writer_.output(); }
    [[nodiscard]] std::size_t nonzeros() const noexcept { return nonzeros_; }

    /// Brings in what there is beside pairs of steps.
    void append_to(Sell& layout) const {
        for (std::size_t i = 0; i < order_.size(); ++i) {
            layout.sums[first_ + i] = sums_[order_[i]];
            layout.row_order.push_back(static_cast<std::uint32_t>(first_ + order_[i]));
        }
        for (const std::uint32_t pairs : slice_pairs_) {
            layout.slice_starts.push_back(layout.slice_starts.back() + pairs);
        }
        for (std::size_t a = 0; a < arithmetics.size(); ++a) {
            layout.errors[a] = std::max(layout.errors[a], worst_.errors[a]);
        }
        layout.heaviest_row = std::max(layout.heaviest_row, worst_.weight);
    }

private:
    /// Checks the rows and finds out how they lie and what their weights add up to.
    bool take_statistics(std::size_t rows, const RowTotals& totals) {
        statistics_.resize(rows);
        sums_.resize(rows);
        worst_ = {};
        // The sums of a row wait for each other: those of some rows do not.
        std::array<std::array<std::uint32_t, 256>, rows_at_once> counts;
        for (std::size_t r = 0; r < rows; r += rows_at_once) {
            const std::size_t size = std::min(rows_at_once, rows - r);
            bool all_good = true;
            for (std::size_t i = 0; i < size; ++i) {
                all_good &= source_.statistics(first_ + r + i, statistics_[r + i],
                                               std::span(counts[i]).first(codes_));
            }
            if (!all_good) return false;
            for (std::size_t i = 0; i < size; ++i) {
                sums_[r + i] =
                    static_cast<float>(totals.add(std::span(counts[i]).first(codes_), worst_));
            }
        }
        return true;
    }

    void fill(PairsOfLayout* end) {
        writer_.clear();
        nonzeros_ = 0;
        slice_pairs_.clear();
        std::array<std::array<std::uint32_t, slice_rows>, slices_together> rows;
        for (std::size_t next = 0; next < order_.size();) {
            std::array<SliceRows, slices_together> slices;
            std::size_t count = 0;
            for (; count < slices_together && next < order_.size(); ++count) {
                const std::size_t size = std::min(slice_rows, order_.size() - next);
                slices[count] = {std::span(rows[count]).first(size), 0};
                for (std::size_t r = 0; r < size; ++r, ++next) {
                    rows[count][r] = static_cast<std::uint32_t>(first_ + order_[next]);
                    slices[count].nonzeros += statistics_[order_[next]].nonzeros();
                }
                nonzeros_ += slices[count].nonzeros;
            }
            const auto counts = writer_.add_slices(std::span(slices).first(count));
            for (std::size_t i = 0; i < count; ++i) {
                slice_pairs_.push_back(static_cast<std::uint32_t>(counts[i]));
            }
            if (end != nullptr && pairs().pairs() >= pairs_at_once) {
                const std::size_t place = end->size();
                end->grow(pairs().pairs(), nonzeros_);
                end->put(pairs(), place);
                writer_.clear();
                nonzeros_ = 0;
            }
        }
    }

    const RowSource& source_;
    const sell::Kernels& kernels_;
    std::size_t codes_;
    SliceWriter writer_;
    std::size_t first_ = 0;
    std::size_t nonzeros_ = 0;
    std::vector<RowStatistics> statistics_;
    std::vector<float> sums_;  // of each row's weights
    RowTotals::Worst worst_{};
    std::vector<std::uint32_t> order_;
    std::vector<std::uint32_t> slice_pairs_;
};

/// Makes the layout, as many groups at a time as there are threads.
class SellMaker {
public:
    SellMaker(RowSource& source, std::uint32_t rows, std::span<const float> codebook,
              const SellShape& shape, Isa isa, int threads, Sell& layout)
        : source_(source),
          kernels_(sell::kernels(isa)),
          codebook_(codebook),
          rows_(rows),
          bounds_(group_bounds()),
          threads_(std::min(bounds_.size() - 1, static_cast<std::size_t>(std::max(threads, 1)))),
          layout_(layout),
          pairs_(layout, source.nonzeros(), threads_) {
        layout_.shape = shape;
        layout_.codes = codebook.size();
        for (std::size_t d = 0; d < layout_.limbs.size(); ++d) {
            layout_.limbs[d] =
                split_codebook(codebook, static_cast<int>(d) + 1, layout_.shape.limb_bits);
        }
        layout_.slice_starts.assign(1, 0);
        layout_.sums.assign((rows + slice_rows - 1) / slice_rows * slice_rows, 0.0F);
        makers_.reserve(threads_);
        for (std::size_t p = 0; p < threads_; ++p) makers_.emplace_back(source, kernels_, layout_);
    }

    /// False where the matrix is malformed.
    bool make() {
        const RowTotals totals(codebook_, layout_, kernels_.weigh_counts);
        std::atomic<std::int64_t> left = static_cast<std::int64_t>(source_.nonzeros());
        for (std::size_t g = 0; g + 1 < bounds_.size(); g += threads_) {
            const std::size_t count = std::min(threads_, bounds_.size() - 1 - g);
            if (!source_.load(bounds_[g], bounds_[g + count], static_cast<int>(threads_))) {
                return false;
            }
            std::atomic<bool> good{true};
            for_each_of(count, [&](std::size_t i) {
                if (!makers_[i].make(bounds_[g + i], bounds_[g + i + 1], totals, left,
                                     count == 1 ? &pairs_ : nullptr)) {
                    good.store(false, std::memory_order_relaxed);
                }
            });
            if (!good) return false;
            std::vector<std::size_t> places;
            for (const GroupMaker& maker : std::span(makers_).first(count)) {
                maker.append_to(layout_);
                places.push_back(pairs_.size());
                pairs_.grow(maker.pairs().pairs(), maker.nonzeros());
            }
            for_each_of(count, [&](std::size_t i) { pairs_.put(makers_[i].pairs(), places[i]); });
        }
        pairs_.finish();
        return left == 0;
    }

private:
    /// Groups of about as many entries each, of whole slices, and an even number of them, so that
    /// two threads have equal parts. The threads there are do not count: the layout is the same.
    std::vector<std::size_t> group_bounds() const {
        const std::size_t entries = source_.entries_before(rows_);
        const std::size_t even = 2 * (entries / (2 * most_entries) + 1);
        const std::size_t groups = std::clamp<std::size_t>(entries / least_entries, 1, even);
        std::vector<std::size_t> bounds{0};
        for (std::size_t r = slice_rows; r < rows_ && bounds.size() < groups; r += slice_rows) {
            if (source_.entries_before(r) * groups >= bounds.size() * entries) bounds.push_back(r);
        }
        bounds.push_back(rows_);
        return bounds;
    }

    template <class Function>
    void for_each_of(std::size_t count, const Function& function) {
        parallel_for(count, 1, static_cast<int>(threads_), [&](std::size_t begin, std::size_t end) {
            for (std::size_t i = begin; i < end; ++i) function(i);
        });
    }

    RowSource& source_;
    const sell::Kernels& kernels_;
    std::span<const float> codebook_;
    std::size_t rows_;
    std::vector<std::size_t> bounds_;  // of the groups of rows
    std::size_t threads_;
    Sell& layout_;
    PairsOfLayout pairs_;
    std::vector<GroupMaker> makers_;
};

}  // namespace

bool make_sell(RowSource& source, std::uint32_t rows, std::span<const float> codebook, Isa isa,
               int threads, Sell& layout) {
    layout.integers = find_integers(codebook);
    const SellShape shape =
        shape_for(sell_shape(isa), codebook.size(), source.nonzeros(),
                  std::uint64_t{rows} * source.cols(), layout.integers.has_value());
    if (shape.dense) {
        return make_dense_codes(source, rows, codebook, shape, isa, threads, layout);
    }
    layout.integers.reset();
    return SellMaker(source, rows, codebook, shape, isa, threads, layout).make();
}

}  // namespace tersor::spmm
