// Filling the sliding layout: the rows are surveyed, put into an order in which those that advance
// alike share a slice, and taken slice by slice into scratch memory that stays in the second cache.
#include "spmm/make_sliding.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <utility>
#include <vector>

#include "spmm/order_rows.hpp"
#include "tersor/parallel.hpp"

namespace tersor::spmm {
namespace {

constexpr std::size_t row_grain = 64;

/// Non-zeros that a thread takes at a time: what they become stays in its second cache.
constexpr std::size_t nonzeros_at_once = std::size_t{1} << 16;

/// How early a row is fetched.
constexpr std::size_t rows_ahead = 2;

/// Pairs of steps one behind the other.
class PairBuffer {
public:
    explicit PairBuffer(bool nibbles) noexcept : pair_size_(pair_bytes(nibbles)) {}

    void clear() noexcept { pairs_ = 0; }
    [[nodiscard]] std::size_t pairs() const noexcept { return pairs_; }

    /// Lets the cursor write at most `pairs` more, and `take` take in what it wrote.
    void give(SliceCursor& slice, std::size_t pairs) {
        if (pairs_ + pairs > room_) {
            room_ = (pairs_ + pairs) * 3 / 2;
            entries_.resize(room_ * pair_size_);
            advances_.resize(2 * room_);
        }
        slice.pairs = entries_.data() + pairs_ * pair_size_;
        slice.advances = advances_.data() + 2 * pairs_;
        slice.room = pairs;
    }
    void take(const SliceCursor& slice) noexcept {
        pairs_ = static_cast<std::size_t>(slice.advances - advances_.data()) / 2;
    }

    void append(const PairBuffer& other) {
        SliceCursor end;
        give(end, other.pairs_);
        other.copy_to(end.pairs, end.advances);
        pairs_ += other.pairs_;
    }
    void copy_to(std::uint8_t* entries, std::uint8_t* advances) const noexcept {
        std::copy_n(entries_.data(), pairs_ * pair_size_, entries);
        std::copy_n(advances_.data(), 2 * pairs_, advances);
    }

private:
    std::size_t pair_size_;
    std::size_t pairs_ = 0;
    std::size_t room_ = 0;
    support::AlignedBuffer<std::uint8_t> entries_;
    support::AlignedBuffer<std::uint8_t> advances_;
};

/// The rows of a slice, and their number of non-zeros.
struct SliceRows {
    std::span<const std::uint32_t> rows;
    std::size_t nonzeros;
};

/// Some slices on their way into the layout.
template <class Source>
class SliceWriter {
public:
    SliceWriter(const Source& source, const Kernels& kernels, SlidingShape shape, bool nibbles)
        : source_(source),
          fill_(kernels.fill_pairs),
          shape_(shape),
          nibbles_(nibbles),
          made_(nibbles),
          beside_(nibbles) {}

    void clear() noexcept { made_.clear(); }

    /// Adds a slice, or two that are filled side by side; returns the pairs of the first.
    std::size_t add_slices(std::span<const SliceRows> slices) {
        std::array<SliceCursor, slices_together> cursors;
        const std::array<PairBuffer*, slices_together> to = {&made_, &beside_};
        const std::size_t before = made_.pairs();
        beside_.clear();
        for (std::size_t i = 0; i < slices.size(); ++i)
            cursors[i] = read_rows(slices[i], scratch_[i]);
        const auto left = std::span(cursors).first(slices.size());
        // Those that left room are finished.
        const auto full = [](const SliceCursor& slice) { return slice.room == 0; };
        do {
            for (std::size_t i = 0; i < slices.size(); ++i) {
                to[i]->give(cursors[i], slices[i].nonzeros / step_slots + 1);
            }
            fill_(left, shape_, nibbles_);
            for (std::size_t i = 0; i < slices.size(); ++i) to[i]->take(cursors[i]);
        } while (std::any_of(left.begin(), left.end(), full));
        const std::size_t first = made_.pairs() - before;
        made_.append(beside_);
        return first;
    }

    [[nodiscard]] const PairBuffer& made() const noexcept { return made_; }

private:
    SliceCursor read_rows(const SliceRows& slice, support::AlignedBuffer<Entry>& scratch) {
        const std::size_t size = slice.nonzeros + slice_rows * (row_slots + read_slack);
        if (scratch.size() < size) {
            scratch = support::AlignedBuffer<Entry>(size + size / 4, support::Fill::none);
        }
        SliceCursor cursor;
        cursor.entries = scratch.data();
        std::size_t at = 0;
        for (std::size_t r = 0; r < slice_rows; ++r) {
            cursor.next[r] = static_cast<std::uint32_t>(at);
            const std::span<const std::uint32_t> rows = slice.rows;
            if (r + rows_ahead < rows.size()) source_.prefetch(rows[r + rows_ahead]);
            if (r < rows.size()) at += source_.read(rows[r], scratch.data() + at);
            std::fill_n(scratch.data() + at, row_slots, past_end);
            at += row_slots;
        }
        return cursor;
    }

    const Source& source_;
    FillPairs fill_;
    SlidingShape shape_;
    bool nibbles_;
    std::array<support::AlignedBuffer<Entry>, slices_together> scratch_;
    PairBuffer made_;
    PairBuffer beside_;
};

/// Fills entries, advances and slice starts; the order of the rows is known. Threads fill a few
/// slices each, whose places are known when all have finished, and copy them there.
template <class Source>
void fill_slices(const Source& source, std::span<const RowFacts> facts, const Kernels& kernels,
                 int threads, Sliding& layout) {
    const std::size_t slices = (facts.size() + slice_rows - 1) / slice_rows;
    const auto rows_of = [&](std::size_t slice) {
        return std::span<const std::uint32_t>(layout.row_order)
            .subspan(slice * slice_rows, std::min(slice_rows, facts.size() - slice * slice_rows));
    };
    std::vector<std::size_t> before(slices + 1, 0);  // non-zeros before each slice
    for (std::size_t s = 0; s < slices; ++s) {
        before[s + 1] = before[s];
        for (const std::uint32_t row : rows_of(s)) before[s + 1] += facts[row].nonzeros();
    }
    const auto pieces = static_cast<std::size_t>(std::max(threads, 1));
    std::vector<SliceWriter<Source>> writers;
    writers.reserve(pieces);
    for (std::size_t p = 0; p < pieces; ++p) {
        writers.emplace_back(source, kernels, layout.shape, layout.nibbles());
    }
    const std::size_t pair_size = pair_bytes(layout.nibbles());
    layout.slice_starts.assign(slices + 1, 0);
    std::vector<std::size_t> bounds(pieces + 1, 0);   // of the slices of each piece
    std::vector<std::size_t> offsets(pieces + 1, 0);  // in pairs
    while (bounds[0] < slices) {
        for (std::size_t p = 0; p < pieces; ++p) {
            const auto enough = std::upper_bound(before.begin(), before.end(),
                                                 before[bounds[p]] + nonzeros_at_once);
            const auto past = static_cast<std::size_t>(enough - before.begin()) - 1;
            bounds[p + 1] = std::min(slices, std::max(past, bounds[p] + 1));
        }
        parallel_for(pieces, 1, threads, [&](std::size_t begin, std::size_t end) noexcept {
            for (std::size_t p = begin; p < end; ++p) {
                writers[p].clear();
                for (std::size_t s = bounds[p]; s < bounds[p + 1];) {
                    std::array<SliceRows, slices_together> some;
                    const std::size_t count = std::min(slices_together, bounds[p + 1] - s);
                    for (std::size_t i = 0; i < count; ++i) {
                        some[i] = {rows_of(s + i), before[s + i + 1] - before[s + i]};
                    }
                    const std::size_t start = writers[p].made().pairs();
                    const std::size_t first = writers[p].add_slices(std::span(some).first(count));
                    layout.slice_starts[s + 1] = static_cast<std::uint32_t>(start + first);
                    s += count;
                    layout.slice_starts[s] = static_cast<std::uint32_t>(writers[p].made().pairs());
                }
            }
        });
        for (std::size_t p = 0; p < pieces; ++p) {
            for (std::size_t s = bounds[p]; s < bounds[p + 1]; ++s) {
                layout.slice_starts[s + 1] += static_cast<std::uint32_t>(offsets[p]);
            }
            offsets[p + 1] = offsets[p] + writers[p].made().pairs();
        }
        // Room for the rest as well, if it is like what is there.
        const std::size_t made = offsets[pieces];
        if (made * pair_size > layout.entries.size()) {
            const double rest =
                static_cast<double>(before[slices]) /
                static_cast<double>(std::max<std::size_t>(before[bounds[pieces]], 1));
            const auto room =
                bounds[pieces] == slices
                    ? made
                    : static_cast<std::size_t>(1.02 * rest * static_cast<double>(made)) + 64;
            layout.entries.resize(room * pair_size);
            layout.advances.resize(room * 2);
        }
        parallel_for(pieces, 1, threads, [&](std::size_t begin, std::size_t end) noexcept {
            for (std::size_t p = begin; p < end; ++p) {
                writers[p].made().copy_to(layout.entries.data() + offsets[p] * pair_size,
                                          layout.advances.data() + offsets[p] * 2);
            }
        });
        bounds[0] = bounds[pieces];
        offsets[0] = offsets[pieces];
    }
    layout.entries.resize(offsets[0] * pair_size);
    layout.advances.resize(offsets[0] * 2);
}

/// What is added up over the weights of a row: the weights, their magnitudes, and for each
/// arithmetic how far its products may be off.
class RowTotals {
public:
    RowTotals(std::span<const float> codebook, const Sliding& layout) : terms_(codebook.size()) {
        for (std::size_t c = 0; c < codebook.size(); ++c) {
            terms_[c][0] = double{codebook[c]};
            terms_[c][1] = std::abs(double{codebook[c]});
        }
        for (std::size_t a = 0; a < arithmetics.size(); ++a) {
            const auto w_digits = static_cast<std::size_t>(arithmetics[a].w_digits);
            const auto errors =
                product_errors(codebook, layout.digits[w_digits - 1], arithmetics[a]);
            for (std::size_t c = 0; c < codebook.size(); ++c) terms_[c][2 + a] = errors[c];
        }
    }

    /// Of the errors: the largest of any row so far, as a part of its sum of magnitudes.
    using Worst = std::array<double, arithmetics.size()>;

    /// Takes a row in by its numbers of codes, and returns the sum of its weights.
    double add(std::span<const std::uint32_t> counts, Worst& worst) const noexcept {
        Terms totals{};
        for (std::size_t c = 1; c < counts.size(); ++c) {
            const double count = counts[c];
            for (std::size_t i = 0; i < totals.size(); ++i) totals[i] += count * terms_[c][i];
        }
        for (std::size_t i = 0; i < worst.size(); ++i) {
            // Without weights that are not 0 any error is too large.
            if (totals[2 + i] > 0.0) worst[i] = std::max(worst[i], totals[2 + i] / totals[1]);
        }
        return totals[0];
    }

private:
    using Terms = std::array<double, 2 + arithmetics.size()>;
    std::vector<Terms> terms_;
};

/// Surveys the rows; sums of weights come in the order of the matrix.
template <class Source>
std::vector<float> survey(const Source& source, std::span<const float> codebook, int threads,
                          std::span<RowFacts> facts, Sliding& layout) {
    for (std::size_t d = 0; d < layout.digits.size(); ++d) {
        layout.digits[d] =
            split_codebook(codebook, static_cast<int>(d) + 1, layout.shape.digit_bits);
    }
    const RowTotals totals(codebook, layout);
    std::vector<float> sums(facts.size());
    std::vector<RowTotals::Worst> worst(facts.size() / row_grain + 1, RowTotals::Worst{});
    parallel_for(
        facts.size(), row_grain, threads, [&](std::size_t begin, std::size_t end) noexcept {
            std::array<std::uint32_t, 256> counts;
            const std::span<std::uint32_t> of_codes(counts.data(), codebook.size());
            for (std::size_t r = begin; r < end; ++r) {
                facts[r] = source.facts(r);
                source.count_codes(r, of_codes);
                sums[r] = static_cast<float>(totals.add(of_codes, worst[begin / row_grain]));
            }
        });
    for (const RowTotals::Worst& some : worst) {
        for (std::size_t a = 0; a < arithmetics.size(); ++a) {
            layout.errors[a] = std::max(layout.errors[a], some[a]);
        }
    }
    return sums;
}

template <class Source>
Sliding make(const Source& source, std::uint32_t rows, std::uint32_t cols,
             std::span<const float> codebook, Isa isa, int threads) {
    Sliding layout;
    layout.shape = sliding_shape(isa);
    layout.codes = codebook.size();
    std::vector<RowFacts> facts(rows);
    const std::vector<float> sums = survey(source, codebook, threads, facts, layout);
    std::size_t nonzeros = 0;
    for (const RowFacts& row : facts) nonzeros += row.nonzeros();
    layout.shape = shape_for(layout.shape, layout.codes, nonzeros, std::uint64_t{rows} * cols);
    layout.row_order = order_rows(facts, threads);
    fill_slices(source, facts, kernels(isa), threads, layout);
    layout.sums.assign(layout.slices() * slice_rows, 0.0F);
    for (std::size_t i = 0; i < rows; ++i) layout.sums[i] = sums[layout.row_order[i]];
    return layout;
}

}  // namespace

Sliding make_sliding(const CsrRows& source, std::uint32_t rows, std::span<const float> codebook,
                     Isa isa, int threads) {
    return make(source, rows, source.cols(), codebook, isa, threads);
}

Sliding make_sliding(const Rows16Rows& source, std::uint32_t rows, std::span<const float> codebook,
                     Isa isa, int threads) {
    return make(source, rows, source.cols(), codebook, isa, threads);
}

}  // namespace tersor::spmm
