#include "spmm/dense_codes/pack.hpp"

#include <algorithm>
#include <array>
#include <memory>
#include <numeric>
#include <utility>
#include <vector>

#include "spmm/sell/kernels.hpp"
#include "spmm/sell/row_totals.hpp"
#include "tersor/parallel.hpp"

namespace tersor::spmm {
namespace {

/// Entries that are read at a time: what is decoded stays in the second cache.
constexpr std::size_t entries_at_once = std::size_t{1} << 20;

/// What threads find out of rows while they write their codes.
struct Findings {
    RowTotals::Worst worst{};
    std::size_t nonzeros = 0;
    bool good = true;
    std::vector<std::pair<std::uint32_t, Entry>> outliers;  // with their rows
};

class DenseMaker {
public:
    DenseMaker(RowSource& source, std::uint32_t rows, std::span<const float> codebook,
               const SellShape& shape, Isa isa, Sell& layout)
        : source_(source),
          layout_(layout),
          codebook_(codebook),
          bits_(dense_codes::code_bits(codebook.size())) {
        const std::size_t slices = (std::size_t{rows} + slice_rows - 1) / slice_rows;
        layout.shape = shape;
        layout.codes = codebook.size();
        for (std::size_t d = 0; d < layout.limbs.size(); ++d) {
            const int count = static_cast<int>(d) + 1;
            layout.limbs[d] = layout.integers.has_value()
                                  ? limbs_of(*layout.integers, count, shape.limb_bits)
                                  : split_codebook(codebook, count, shape.limb_bits);
        }
        layout.row_bytes = dense_codes::row_bytes(source.cols(), bits_);
        layout.entries =
            support::AlignedBuffer<std::uint8_t>(slices * slice_rows * layout.row_bytes);
        layout.sums.assign(slices * slice_rows, 0.0F);
        layout.row_order.resize(rows);
        std::iota(layout.row_order.begin(), layout.row_order.end(), 0U);
        // The work of a slice, and room for the entries of a row.
        const std::size_t pairs = (source.cols() + 2 * row_slots - 1) / (2 * row_slots);
        layout.slice_starts.resize(slices + 1);
        for (std::size_t s = 0; s <= slices; ++s) {
            layout.slice_starts[s] = static_cast<std::uint32_t>(s * pairs);
        }
        totals_ = std::make_unique<RowTotals>(without_outliers(layout.integers, codebook), layout,
                                              sell::kernels(isa).weigh_counts);
    }

    /// False where the matrix is malformed.
    bool make(int threads) {
        const std::size_t rows = layout_.row_order.size();
        std::vector<std::pair<std::uint32_t, Entry>> outliers;
        std::size_t nonzeros = 0;
        for (std::size_t first = 0; first < rows;) {
            std::size_t last = first;
            while (last < rows &&
                   (last == first || source_.entries_before(last) - source_.entries_before(first) <
                                         entries_at_once)) {
                last = std::min(last + slice_rows, rows);
            }
            if (!source_.load(first, last, threads)) return false;
            const std::size_t pieces = std::min((last - first + slice_rows - 1) / slice_rows,
                                                static_cast<std::size_t>(std::max(threads, 1)));
            std::vector<Findings> found(pieces);
            const auto bound = [&](std::size_t piece) {
                const std::size_t at = (last - first) * piece / pieces;
                return piece == pieces ? last : first + at / slice_rows * slice_rows;
            };
            parallel_for(pieces, 1, threads, [&](std::size_t begin, std::size_t end) {
                for (std::size_t p = begin; p < end; ++p) {
                    found[p] = make_rows(bound(p), bound(p + 1));
                }
            });
            for (const Findings& one : found) {
                if (!one.good) return false;
                nonzeros += one.nonzeros;
                for (std::size_t a = 0; a < arithmetics.size(); ++a) {
                    layout_.errors[a] = std::max(layout_.errors[a], one.worst.errors[a]);
                }
                layout_.heaviest_row = std::max(layout_.heaviest_row, one.worst.weight);
                outliers.insert(outliers.end(), one.outliers.begin(), one.outliers.end());
            }
            first = last;
        }
        if (!outliers.empty()) keep(outliers);
        return nonzeros == source_.nonzeros();
    }

private:
    Findings make_rows(std::size_t first, std::size_t last) const {
        Findings found;
        std::array<std::uint32_t, 256> counts;
        std::vector<Entry> entries;
        for (std::size_t r = first; r < last; ++r) {
            RowStatistics statistics;
            const std::span<std::uint32_t> row_counts(counts.data(), layout_.codes);
            if (!source_.statistics(r, statistics, row_counts)) {
                found.good = false;
                return found;
            }
            layout_.sums[r] = static_cast<float>(totals_->add(row_counts, found.worst));
            const std::size_t room = source_.entries_before(r + 1) - source_.entries_before(r);
            if (entries.size() < room + read_slack) entries.resize(2 * (room + read_slack));
            const std::size_t size = source_.read(r, entries.data());
            found.nonzeros += size;
            const auto row = std::span(entries).first(size);
            if (layout_.integers.has_value()) {
                write_integers(*layout_.integers, r, row, found);
            } else {
                write(r, row);
            }
        }
        return found;
    }

    void write_integers(const Integers& integers, std::size_t row, std::span<const Entry> entries,
                        Findings& found) const {
        std::uint8_t* const lines =
            dense_codes::first_line(layout_.entries.data(), layout_.row_bytes, row);
        for (const Entry entry : entries) {
            const std::size_t column = entry >> 8;
            const std::size_t code = entry & 255U;
            lines[column / dense_codes::line_bytes * dense_codes::group_rows *
                      dense_codes::line_bytes +
                  column % dense_codes::line_bytes] =
                static_cast<std::uint8_t>(integers.of_code[code]);
            if (integers.is_outlier(code)) {
                found.outliers.emplace_back(static_cast<std::uint32_t>(row), entry);
            }
        }
    }

    void keep(std::span<const std::pair<std::uint32_t, Entry>> outliers) const {
        Outliers& kept = layout_.outliers;
        kept.row_starts.assign(layout_.row_order.size() + 1, 0);
        for (const auto& [row, entry] : outliers) {
            ++kept.row_starts[row + 1];
            kept.columns.push_back(entry >> 8);
            kept.codes.push_back(static_cast<std::uint8_t>(entry & 255U));
            kept.values.push_back(codebook_[entry & 255U]);
        }
        std::partial_sum(kept.row_starts.begin(), kept.row_starts.end(), kept.row_starts.begin());
    }

    void write(std::size_t row, std::span<const Entry> entries) const noexcept {
        std::uint8_t* const lines =
            dense_codes::first_line(layout_.entries.data(), layout_.row_bytes, row);
        const std::size_t columns = dense_codes::line_columns(bits_);
        for (const Entry entry : entries) {
            const std::size_t column = entry >> 8;
            const std::size_t inside = column % columns;
            std::uint8_t& byte =
                lines[column / columns * dense_codes::group_rows * dense_codes::line_bytes +
                      inside % dense_codes::line_bytes];
            const auto shift = static_cast<int>(inside / dense_codes::line_bytes) * bits_;
            byte = static_cast<std::uint8_t>(byte | (entry & 255U) << shift);
        }
    }

    RowSource& source_;
    Sell& layout_;
    std::span<const float> codebook_;
    int bits_;
    std::unique_ptr<RowTotals> totals_;  // made when the layout has its limbs
};

}  // namespace

bool make_dense_codes(RowSource& source, std::uint32_t rows, std::span<const float> codebook,
                      const SellShape& shape, Isa isa, int threads, Sell& layout) {
    return DenseMaker(source, rows, codebook, shape, isa, layout).make(threads);
}

}  // namespace tersor::spmm
