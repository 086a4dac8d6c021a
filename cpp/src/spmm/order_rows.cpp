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

/// Ranges that one is cut into at a time. More take less time, and know less of the other marks.
constexpr std::size_t parts = 3;

/// The mark at which rows differ most, by its variance, and their range there.
struct Mark {
    std::size_t number = 0;
    float least = 0.0F;
    float most = 0.0F;
};

Mark widest_mark(const Moments& moments, std::size_t rows) {
    const auto size = static_cast<float>(rows);
    Mark widest;
    float largest = -1.0F;
    for (std::size_t m = 0; m < RowFacts::marks; ++m) {
        float variance = moments.squares[m] - moments.sums[m] * moments.sums[m] / size;
        if (m + 1 == RowFacts::marks) variance *= weight_of_end * weight_of_end;
        if (variance > largest) {
            largest = variance;
            widest = {m, moments.least[m], moments.most[m]};
        }
    }
    return widest;
}

/// Sorts the rows by what they have passed at the mark, most first, to within a part of the range.
void sort_by(std::span<const RowFacts> facts, const Mark& mark, std::span<std::uint32_t> rows,
             std::span<std::uint32_t> scratch, std::span<std::uint8_t> bucket_of) {
    constexpr std::size_t buckets = 128;
    if (mark.least == mark.most) return;
    const float scale = static_cast<float>(buckets - 1) / (mark.most - mark.least);
    std::array<std::uint32_t, buckets> places{};
    for (std::size_t i = 0; i < rows.size(); ++i) {
        const float behind = mark.most - facts[rows[i]].passed[mark.number];
        bucket_of[i] = static_cast<std::uint8_t>(static_cast<std::int32_t>(behind * scale));
        ++places[bucket_of[i]];
    }
    std::exclusive_scan(places.begin(), places.end(), places.begin(), 0U);
    for (std::size_t i = 0; i < rows.size(); ++i) scratch[places[bucket_of[i]]++] = rows[i];
    std::copy_n(scratch.begin(), rows.size(), rows.begin());
}

}  // namespace

std::vector<std::uint32_t> order_rows(std::span<const RowFacts> facts,
                                      std::span<const std::size_t> bounds, const Kernels& kernels,
                                      int threads) {
    std::vector<std::uint32_t> order(facts.size());
    std::iota(order.begin(), order.end(), 0U);
    std::vector<std::uint32_t> scratch(facts.size());
    std::vector<std::uint8_t> buckets(facts.size());
    using Part = std::pair<std::size_t, std::size_t>;
    std::vector<Part> ranges;
    for (std::size_t i = 0; i + 1 < bounds.size(); ++i)
        ranges.emplace_back(bounds[i], bounds[i + 1]);
    while (!ranges.empty()) {
        // Each range leaves some in its place, or nothing.
        std::vector<Part> smaller(parts * ranges.size());
        parallel_for(ranges.size(), 1, threads, [&](std::size_t begin, std::size_t end) noexcept {
            for (std::size_t i = begin; i < end; ++i) {
                const auto [from, to] = ranges[i];
                const std::size_t slices = (to - from + slice_rows - 1) / slice_rows;
                if (slices < 2) continue;
                const auto rows = std::span(order).subspan(from, to - from);
                const Moments moments = kernels.moments_of(facts.data(), rows.data(), rows.size());
                sort_by(facts, widest_mark(moments, rows.size()), rows,
                        std::span(scratch).subspan(from, to - from),
                        std::span(buckets).subspan(from, to - from));
                for (std::size_t p = 0; p < parts; ++p) {
                    const std::size_t begin_slice = slices * p / parts;
                    const std::size_t end_slice = slices * (p + 1) / parts;
                    smaller[parts * i + p] = {from + begin_slice * slice_rows,
                                              std::min(to, from + end_slice * slice_rows)};
                }
            }
        });
        std::erase_if(smaller,
                      [](const Part& part) { return part.second - part.first <= slice_rows; });
        ranges = std::move(smaller);
    }
    return order;
}

}  // namespace tersor::spmm
