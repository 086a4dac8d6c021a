#include "spmm/order_rows.hpp"

#include <algorithm>
#include <array>
#include <numeric>
#include <utility>

#include "tersor/parallel.hpp"

namespace tersor::spmm {
namespace {

/// A row that ends later holds its slice up for certain, one that lags in between perhaps.
constexpr float weight_of_end = 1.5F;

/// The mark at which rows differ most, by its variance, and their range there.
struct Mark {
    std::size_t number = 0;
    float least = 0.0F;
    float most = 0.0F;
};

Mark widest_mark(std::span<const RowFacts> facts, std::span<const std::uint32_t> rows) {
    using Values = std::array<float, RowFacts::marks>;
    const Values& origin = facts[rows[0]].passed;  // keeps the squares small
    Values sums{}, squares{}, least = origin, most = origin;
    for (const std::uint32_t row : rows) {
        for (std::size_t m = 0; m < RowFacts::marks; ++m) {
            const float passed = facts[row].passed[m];
            const float more = passed - origin[m];
            sums[m] += more;
            squares[m] += more * more;
            least[m] = std::min(least[m], passed);
            most[m] = std::max(most[m], passed);
        }
    }
    const auto size = static_cast<float>(rows.size());
    Mark widest;
    float largest = -1.0F;
    for (std::size_t m = 0; m < RowFacts::marks; ++m) {
        float variance = squares[m] - sums[m] * sums[m] / size;
        if (m + 1 == RowFacts::marks) variance *= weight_of_end * weight_of_end;
        if (variance > largest) {
            largest = variance;
            widest = {m, least[m], most[m]};
        }
    }
    return widest;
}

/// Puts `first` of the rows, those that have passed most at the mark, before the others: by
/// counting, to within a part of the range.
void split(std::span<const RowFacts> facts, const Mark& mark, std::size_t first,
           std::span<std::uint32_t> rows, std::span<std::uint32_t> scratch,
           std::span<std::uint8_t> bucket_of) {
    constexpr std::size_t buckets = 128;
    if (mark.least == mark.most) return;
    const float scale = static_cast<float>(buckets - 1) / (mark.most - mark.least);
    std::array<std::uint32_t, buckets> counts{};
    for (std::size_t i = 0; i < rows.size(); ++i) {
        const float behind = mark.most - facts[rows[i]].passed[mark.number];
        bucket_of[i] = static_cast<std::uint8_t>(static_cast<std::int32_t>(behind * scale));
        ++counts[bucket_of[i]];
    }
    std::size_t limit = 0;
    std::size_t before = 0;
    for (; before + counts[limit] < first; ++limit) before += counts[limit];
    std::size_t ties = first - before;  // rows of the bucket at the limit that come first
    std::size_t front = 0;
    std::size_t back = 0;
    for (std::size_t i = 0; i < rows.size(); ++i) {
        const std::uint32_t row = rows[i];
        const bool tie = (bucket_of[i] == limit) & (ties > 0);
        const bool in_front = (bucket_of[i] < limit) | tie;
        ties -= tie ? 1U : 0U;
        scratch[back] = row;
        rows[front] = row;  // never ahead of what is read
        front += in_front ? 1U : 0U;
        back += in_front ? 0U : 1U;
    }
    std::copy_n(scratch.begin(), back, rows.begin() + static_cast<std::ptrdiff_t>(front));
}

}  // namespace

std::vector<std::uint32_t> order_rows(std::span<const RowFacts> facts, int threads) {
    std::vector<std::uint32_t> order(facts.size());
    std::iota(order.begin(), order.end(), 0U);
    std::vector<std::uint32_t> scratch(facts.size());
    std::vector<std::uint8_t> buckets(facts.size());
    using Range = std::pair<std::size_t, std::size_t>;
    std::vector<Range> ranges{{0, facts.size()}};
    while (!ranges.empty()) {
        // Each range leaves two in its place, or nothing.
        std::vector<Range> halves(2 * ranges.size());
        parallel_for(ranges.size(), 1, threads, [&](std::size_t begin, std::size_t end) noexcept {
            for (std::size_t i = begin; i < end; ++i) {
                const auto [from, to] = ranges[i];
                const std::size_t slices = (to - from + slice_rows - 1) / slice_rows;
                if (slices < 2) continue;
                const std::size_t first = slices / 2 * slice_rows;
                const auto rows = std::span(order).subspan(from, to - from);
                split(facts, widest_mark(facts, rows), first, rows,
                      std::span(scratch).subspan(from, to - from),
                      std::span(buckets).subspan(from, to - from));
                halves[2 * i] = {from, from + first};
                halves[2 * i + 1] = {from + first, to};
            }
        });
        std::erase(halves, Range{0, 0});
        ranges = std::move(halves);
    }
    return order;
}

}  // namespace tersor::spmm
