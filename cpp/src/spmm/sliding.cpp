// Filling the sliding layout, and reading it back.
#include "spmm/sliding.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace tersor::spmm {
namespace {

constexpr std::uint32_t past_end = UINT32_MAX;

/// Where the entries of a row begin and end in a block.
struct Span {
    std::uint64_t begin;
    std::uint64_t end;
};

Span row_span(const Block& block, std::size_t row) noexcept {
    return {block.row_starts[row], block.row_starts[row + 1]};
}

struct RowCounts {
    std::uint32_t all = 0;
    std::uint32_t left_half = 0;  // those in the first half of the columns
};

std::vector<RowCounts> count_rows(const Rows16& source, std::uint32_t rows, std::uint32_t cols) {
    std::vector<RowCounts> counts(rows);
    const std::uint64_t middle = cols / 2;
    for (std::size_t b = 0; b < source.blocks.size(); ++b) {
        const Block& block = source.blocks[b];
        const std::uint64_t first = b * block_columns;
        for (std::size_t r = 0; r < rows; ++r) {
            const auto [begin, end] = row_span(block, r);
            counts[r].all += static_cast<std::uint32_t>(end - begin);
            if (first >= middle) continue;
            const std::uint16_t* columns = block.columns.data();
            const auto stop = static_cast<std::uint16_t>(
                std::min<std::uint64_t>(middle - first, block_columns - 1));
            counts[r].left_half += static_cast<std::uint32_t>(
                std::lower_bound(columns + begin, columns + end, stop) - (columns + begin));
        }
    }
    return counts;
}

/// Rows that advance alike come together: by their number of entries in bands, and inside a band by
/// how many lie in the left half.
std::vector<std::uint32_t> order_rows(const std::vector<RowCounts>& counts) {
    std::vector<std::uint32_t> order(counts.size());
    std::iota(order.begin(), order.end(), 0U);
    std::stable_sort(order.begin(), order.end(), [&](std::uint32_t a, std::uint32_t b) {
        return counts[a].all > counts[b].all;
    });
    const double slices = static_cast<double>(order.size()) / slice_rows;
    const std::size_t band =
        slice_rows * std::max<std::size_t>(1, static_cast<std::size_t>(std::sqrt(slices)));
    for (std::size_t begin = 0; begin < order.size(); begin += band) {
        const std::size_t end = std::min(begin + band, order.size());
        std::stable_sort(order.begin() + static_cast<std::ptrdiff_t>(begin),
                         order.begin() + static_cast<std::ptrdiff_t>(end),
                         [&](std::uint32_t a, std::uint32_t b) {
                             return counts[a].left_half > counts[b].left_half;
                         });
    }
    return order;
}

/// The entries of the rows of a slice, each row ended by columns past every window.
class SliceReader {
public:
    void load(const Rows16& source, const std::uint32_t* rows, std::size_t row_count,
              const RowCounts* counts) {
        std::size_t at = 0;
        for (std::size_t r = 0; r < slice_rows; ++r) {
            starts_[r] = at;
            if (r < row_count) at += counts[rows[r]].all;
            at += row_slots;
        }
        columns_.resize(std::max(columns_.size(), at));
        codes_.resize(std::max(codes_.size(), at));
        for (std::size_t r = 0; r < slice_rows; ++r) {
            std::size_t to = starts_[r];
            for (std::size_t b = 0; r < row_count && b < source.blocks.size(); ++b) {
                const Block& block = source.blocks[b];
                const auto [begin, end] = row_span(block, rows[r]);
                const auto first = static_cast<std::uint32_t>(b * block_columns);
                for (std::uint64_t i = begin; i < end; ++i, ++to) {
                    columns_[to] = first + block.columns[i];
                    codes_[to] = block.codes[i];
                }
            }
            std::fill_n(columns_.begin() + static_cast<std::ptrdiff_t>(to), row_slots, past_end);
            std::fill_n(codes_.begin() + static_cast<std::ptrdiff_t>(to), row_slots,
                        std::uint8_t{0});
        }
    }

    /// The first column that no step has taken; past_end when all are.
    [[nodiscard]] std::uint32_t next_column() const noexcept {
        std::uint32_t next = past_end;
        for (const std::size_t start : starts_) next = std::min(next, columns_[start]);
        return next;
    }

    /// Takes up to four entries of each row that lie before `first + window_columns`.
    void take_step(std::uint32_t first, std::uint8_t* columns, std::uint8_t* codes) noexcept {
        for (std::size_t r = 0; r < slice_rows; ++r) {
            const std::uint32_t* from = columns_.data() + starts_[r];
            const std::uint8_t* code = codes_.data() + starts_[r];
            std::size_t taken = 0;
            for (std::size_t k = 0; k < row_slots; ++k) {
                const bool inside = from[k] - first < window_columns;
                columns[row_slots * r + k] =
                    inside ? static_cast<std::uint8_t>(from[k] - first) : std::uint8_t{0};
                codes[row_slots * r + k] = inside ? code[k] : std::uint8_t{0};
                taken += inside ? 1U : 0U;
            }
            starts_[r] += taken;
        }
    }

private:
    std::array<std::size_t, slice_rows> starts_{};
    std::vector<std::uint32_t> columns_;
    std::vector<std::uint8_t> codes_;
};

/// A growing list of pairs of steps.
class PairWriter {
public:
    explicit PairWriter(bool nibbles) : nibbles_(nibbles) {}

    void add_slice(SliceReader& reader) {
        std::array<std::uint8_t, step_slots> codes;
        bool second = false;
        for (std::uint32_t next; (next = reader.next_column()) != past_end; second = !second) {
            const std::uint32_t window = next / window_grain;
            if (!second) entries_.resize(entries_.size() + pair_bytes(nibbles_));
            std::uint8_t* pair = entries_.data() + entries_.size() - pair_bytes(nibbles_);
            std::uint8_t* columns = pair + (second ? step_slots : 0);
            reader.take_step(window * window_grain, columns, codes.data());
            std::uint8_t* to = pair + 2 * step_slots + (second && !nibbles_ ? step_slots : 0);
            const int shift = second && nibbles_ ? 4 : 0;
            for (std::size_t i = 0; i < step_slots; ++i) {
                to[i] = static_cast<std::uint8_t>(to[i] | codes[i] << shift);
            }
            windows_.push_back(static_cast<std::uint16_t>(window));
        }
        if (second) windows_.push_back(0);
    }

    [[nodiscard]] std::uint32_t pairs() const noexcept {
        return static_cast<std::uint32_t>(windows_.size() / 2);
    }

    void move_to(Sliding& layout) const {
        layout.entries = support::AlignedBuffer<std::uint8_t>(entries_.size());
        std::copy(entries_.begin(), entries_.end(), layout.entries.data());
        layout.windows = support::AlignedBuffer<std::uint16_t>(windows_.size());
        std::copy(windows_.begin(), windows_.end(), layout.windows.data());
    }

private:
    bool nibbles_;
    std::vector<std::uint8_t> entries_;
    std::vector<std::uint16_t> windows_;
};

/// Sums of the rows' rounded weights, and the error of the worst row.
void describe_rows(const Rows16& source, std::uint32_t rows, std::span<const float> codebook,
                   Sliding& layout) {
    std::array<std::array<double, 256>, max_digits> values{};
    for (int d = 0; d < max_digits; ++d) {
        const auto at = static_cast<std::size_t>(d);
        layout.digits[at] = split_codebook(codebook, d + 1);
        layout.sums[at].resize((rows + slice_rows - 1) / slice_rows * slice_rows);
        for (std::size_t c = 0; c < codebook.size(); ++c) {
            values[at][c] = layout.digits[at].value(c);
        }
    }
    std::array<std::array<double, 256>, arithmetics.size()> errors{};
    for (std::size_t a = 0; a < arithmetics.size(); ++a) {
        const auto digits = static_cast<std::size_t>(arithmetics[a].w_digits - 1);
        errors[a] = product_errors(codebook, layout.digits[digits], arithmetics[a]);
    }
    for (std::size_t i = 0; i < rows; ++i) {
        std::array<std::uint32_t, 256> histogram{};
        for (const Block& block : source.blocks) {
            const auto [begin, end] = row_span(block, layout.row_order[i]);
            for (std::uint64_t e = begin; e < end; ++e) ++histogram[block.codes[e]];
        }
        std::array<double, max_digits> sums{};
        std::array<double, arithmetics.size()> wrong{};
        double magnitude = 0.0;
        for (std::size_t c = 0; c < codebook.size(); ++c) {
            const double n = histogram[c];
            magnitude += n * std::abs(double{codebook[c]});
            for (std::size_t d = 0; d < sums.size(); ++d) sums[d] += n * values[d][c];
            for (std::size_t a = 0; a < wrong.size(); ++a) wrong[a] += n * errors[a][c];
        }
        for (std::size_t d = 0; d < sums.size(); ++d) {
            layout.sums[d][i] = static_cast<float>(sums[d]);
        }
        for (std::size_t a = 0; a < wrong.size() && magnitude > 0.0; ++a) {
            layout.errors[a] = std::max(layout.errors[a], wrong[a] / magnitude);
        }
    }
}

}  // namespace

std::size_t Sliding::nbytes() const noexcept {
    std::size_t bytes = entries.nbytes() + windows.nbytes() + sizeof(digits) +
                        4 * (slice_starts.size() + row_order.size());
    for (const auto& sum : sums) bytes += sizeof(float) * sum.size();
    return bytes;
}

Sliding make_sliding(const Rows16& source, std::uint32_t rows, std::uint32_t cols,
                     std::span<const float> codebook) {
    Sliding layout;
    layout.codes = codebook.size();
    const std::vector<RowCounts> counts = count_rows(source, rows, cols);
    layout.row_order = order_rows(counts);
    PairWriter writer(layout.nibbles());
    SliceReader reader;
    layout.slice_starts.push_back(0);
    for (std::size_t r = 0; r < rows; r += slice_rows) {
        reader.load(source, layout.row_order.data() + r,
                    std::min<std::size_t>(slice_rows, rows - r), counts.data());
        writer.add_slice(reader);
        layout.slice_starts.push_back(writer.pairs());
    }
    writer.move_to(layout);
    describe_rows(source, rows, codebook, layout);
    return layout;
}

Rows16 make_rows16(const Sliding& source, std::uint32_t rows, std::uint32_t cols) {
    Rows16 layout = empty_rows16(rows, cols);
    for_each_entry(source, [&](std::uint32_t row, std::size_t column, std::uint8_t) {
        ++layout.blocks[column / block_columns].row_starts[std::size_t{row} + 1];
    });
    allocate_entries(layout, rows, true);
    std::vector<std::uint64_t> next;  // [block][row]
    for (const Block& block : layout.blocks) {
        next.insert(next.end(), block.row_starts.data(), block.row_starts.data() + rows);
    }
    for_each_entry(source, [&](std::uint32_t row, std::size_t column, std::uint8_t code) {
        const std::size_t b = column / block_columns;
        const std::uint64_t to = next[b * rows + row]++;
        layout.blocks[b].columns[to] = static_cast<std::uint16_t>(column % block_columns);
        layout.blocks[b].codes[to] = code;
    });
    return layout;
}

}  // namespace tersor::spmm
