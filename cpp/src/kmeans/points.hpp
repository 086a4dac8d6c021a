// The data of a clustering problem: distinct values in order, with their weight.
#pragma once

#include <cstddef>
#include <span>
#include <vector>

namespace tersor::kmeans {

/// A group of neighbouring values: its total weight, and the weighted mean of its members.
struct Point {
    double position = 0.0;
    double weight = 0.0;
};

/// Prefix sums over points, from which the cost of any run of them as one cluster takes no loop.
class CostTable {
public:
    explicit CostTable(std::span<const Point> points);

    /// Points [begin, end) as one cluster: the weighted squared distance to their mean.
    [[nodiscard]] double cost(std::size_t begin, std::size_t end) const noexcept;
    [[nodiscard]] std::size_t size() const noexcept { return weight_.size() - 1; }

private:
    std::vector<double> weight_, first_, second_;
};

/// The best partition of the points into at most `clusters` runs: the end of each run. Dynamic
/// programming; the best last run starts no earlier when there are more points, so that divide and
/// conquer finds all starts of a level in n log n steps.
[[nodiscard]] std::vector<std::size_t> best_partition(const CostTable& table, std::size_t clusters);

}  // namespace tersor::kmeans
