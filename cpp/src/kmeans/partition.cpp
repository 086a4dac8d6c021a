#include <algorithm>
#include <cstdint>
#include <limits>

#include "kmeans/points.hpp"

namespace tersor::kmeans {

CostTable::CostTable(std::span<const Point> points)
    : weight_(points.size() + 1), first_(points.size() + 1), second_(points.size() + 1) {
    // Sums around the middle of the data lose fewer digits than sums around zero.
    const double origin = points.empty() ? 0.0 : points[points.size() / 2].position;
    for (std::size_t i = 0; i < points.size(); ++i) {
        const double x = points[i].position - origin;
        weight_[i + 1] = weight_[i] + points[i].weight;
        first_[i + 1] = first_[i] + points[i].weight * x;
        second_[i + 1] = second_[i] + points[i].weight * x * x;
    }
}

double CostTable::cost(std::size_t begin, std::size_t end) const noexcept {
    const double weight = weight_[end] - weight_[begin];
    if (weight <= 0.0) return 0.0;
    const double first = first_[end] - first_[begin];
    return std::max(0.0, second_[end] - second_[begin] - first * first / weight);
}

namespace {

/// One level of the programme: from the costs of k clusters to those of k + 1.
struct Level {
    const CostTable& table;
    const std::vector<double>& previous;  // [points + 1]
    std::vector<double>& costs;
    std::vector<std::uint32_t>& starts;  // of the last cluster

    /// Fills [low, high), knowing that the starts lie in [start_low, start_high].
    void fill(std::size_t low, std::size_t high, std::size_t start_low, std::size_t start_high) {
        if (low >= high) return;
        const std::size_t middle = low + (high - low) / 2;
        double best = std::numeric_limits<double>::infinity();
        std::size_t best_start = start_low;
        for (std::size_t start = start_low; start <= std::min(middle, start_high); ++start) {
            const double cost = previous[start] + table.cost(start, middle);
            if (cost < best) {
                best = cost;
                best_start = start;
            }
        }
        costs[middle] = best;
        starts[middle] = static_cast<std::uint32_t>(best_start);
        fill(low, middle, start_low, best_start);
        fill(middle + 1, high, best_start, start_high);
    }
};

}  // namespace

std::vector<std::size_t> best_partition(const CostTable& table, std::size_t clusters) {
    const std::size_t n = table.size();
    clusters = std::min(clusters, n);
    if (clusters == 0) return {};
    std::vector<double> previous(n + 1), costs(n + 1);
    for (std::size_t end = 0; end <= n; ++end) previous[end] = table.cost(0, end);
    std::vector<std::vector<std::uint32_t>> starts;
    for (std::size_t k = 1; k < clusters; ++k) {
        Level level{table, previous, costs, starts.emplace_back(n + 1)};
        level.fill(0, n + 1, 0, n);
        previous.swap(costs);
    }
    std::vector<std::size_t> ends;
    std::size_t end = n;
    for (std::size_t k = starts.size(); k-- > 0;) {
        ends.push_back(end);
        end = starts[k][end];
    }
    ends.push_back(end);
    std::reverse(ends.begin(), ends.end());
    return ends;
}

}  // namespace tersor::kmeans
