#include "spmm/sell/row_clustering.hpp"

#include <algorithm>
#include <array>
#include <numeric>
#include <utility>

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

Mark widest_mark(const Moments& moments, std::size_t rows) {
    const auto size = static_cast<float>(rows);
    Mark widest;
    float largest = -1.0F;
    for (std::size_t m = 0; m < RowStatistics::marks; ++m) {
        float variance = moments.squares[m] - moments.sums[m] * moments.sums[m] / size;
        if (m + 1 == RowStatistics::marks) variance *= weight_of_end * weight_of_end;
        if (variance > largest) {
            largest = variance;
            widest = {m, moments.least[m], moments.most[m]};
        }
    }
    return widest;
}

/// Sorts the rows by what they have passed at the mark, most first, to within a part of the range.
void sort_by(std::span<const RowStatistics> statistics, const Mark& mark,
             std::span<std::uint32_t> rows, std::span<std::uint32_t> scratch,
             std::span<std::uint8_t> bucket_of) {
    constexpr std::size_t buckets = 128;
    if (mark.least == mark.most) return;
    const float scale = static_cast<float>(buckets - 1) / (mark.most - mark.least);
    std::array<std::uint32_t, buckets> places{};
    for (std::size_t i = 0; i < rows.size(); ++i) {
        const float behind = mark.most - statistics[rows[i]].passed[mark.number];
        bucket_of[i] = static_cast<std::uint8_t>(static_cast<std::int32_t>(behind * scale));
        ++places[bucket_of[i]];
    }
    std::exclusive_scan(places.begin(), places.end(), places.begin(), 0U);
    for (std::size_t i = 0; i < rows.size(); ++i) scratch[places[bucket_of[i]]++] = rows[i];
    std::copy_n(scratch.begin(), rows.size(), rows.begin());
}

struct Part {
    std::size_t begin;
    std::size_t end;

    [[nodiscard]] std::size_t slices() const noexcept {
        return (end - begin + slice_rows - 1) / slice_rows;
    }
};

/// An order of rows on its way.
class Ordering {
public:
    Ordering(std::span<const RowStatistics> statistics, const sell::Kernels& kernels)
        : statistics_(statistics),
          moments_of_(kernels.moments_of),
          order_(statistics.size()),
          scratch_(statistics.size()),
          buckets_(statistics.size()) {
        std::iota(order_.begin(), order_.end(), 0U);
    }

    /// Sorts a part of at least two slices and cuts it in two.
    std::array<Part, 2> halve(const Part& part) noexcept {
        const std::size_t size = part.end - part.begin;
        const auto rows = std::span(order_).subspan(part.begin, size);
        const Moments moments = moments_of_(statistics_.data(), rows.data(), size);
        sort_by(statistics_, widest_mark(moments, size), rows,
                std::span(scratch_).subspan(part.begin, size),
                std::span(buckets_).subspan(part.begin, size));
        const std::size_t middle = part.begin + part.slices() / 2 * slice_rows;
        return {Part{part.begin, middle}, Part{middle, part.end}};
    }

    /// Sorts and cuts a part down to slices, one side after the other: what it looks at stays in
    /// the first cache.
    void finish(const Part& part) noexcept {
        std::array<Part, 64> left;  // twice as long each
        std::size_t count = 0;
        left[count++] = part;
        while (count > 0) {
            const Part next = left[--count];
            if (next.slices() < 2) continue;
            const auto [first, second] = halve(next);
            left[count++] = second;
            left[count++] = first;
        }
    }

    [[nodiscard]] std::vector<std::uint32_t> take() noexcept { return std::move(order_); }

private:
    std::span<const RowStatistics> statistics_;
    sell::MomentsOf moments_of_;
    std::vector<std::uint32_t> order_;
    std::vector<std::uint32_t> scratch_;
    std::vector<std::uint8_t> buckets_;
};

}  // namespace

std::vector<std::uint32_t> cluster_rows(std::span<const RowStatistics> statistics,
                                        const sell::Kernels& kernels) {
    Ordering ordering(statistics, kernels);
    ordering.finish({0, statistics.size()});
    return ordering.take();
}

}  // namespace tersor::spmm
