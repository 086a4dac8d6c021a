// Clustering: groups of values, then the exact partition or Lloyd's iterations, then the codes.
// All sums are double and run in one fixed order, so the result does not depend on the machine.
#include "tersor/kmeans.hpp"

#include <algorithm>
#include <cmath>
#include <random>
#include <stdexcept>
#include <string>

#include "kmeans/points.hpp"
#include "tersor/parallel.hpp"

namespace tersor::kmeans {
namespace {

/// Groups for the exact mode: enough that the loss against the true optimum is below 0.001 %.
std::size_t group_count(int clusters) noexcept { return clusters <= 64 ? 16384 : 65536; }

double importance_at(std::span<const float> importance, std::size_t i) noexcept {
    return importance.empty() ? 1.0 : double{importance[i]};
}

/// One point for each bin of a fine histogram, at the mean of its members, in increasing order and
/// without empty ones.
std::vector<Point> group(std::span<const float> x, std::span<const float> importance, float low,
                         float high, std::size_t bins) {
    std::vector<double> weights(bins, 0.0), sums(bins, 0.0);
    const double scale = high > low ? static_cast<double>(bins - 1) / (double{high} - low) : 0.0;
    for (std::size_t i = 0; i < x.size(); ++i) {
        const auto bin = static_cast<std::size_t>((double{x[i]} - low) * scale);
        const double weight = importance_at(importance, i);
        weights[bin] += weight;
        sums[bin] += weight * x[i];
    }
    std::vector<Point> points;
    for (std::size_t b = 0; b < bins; ++b) {
        if (weights[b] > 0.0) points.push_back({sums[b] / weights[b], weights[b]});
    }
    return points;
}

/// One point for each distinct value, in increasing order; those without weight are left out.
std::vector<Point> distinct_points(std::span<const float> x, std::span<const float> importance) {
    std::vector<std::pair<float, double>> pairs(x.size());
    for (std::size_t i = 0; i < x.size(); ++i) pairs[i] = {x[i], importance_at(importance, i)};
    std::stable_sort(pairs.begin(), pairs.end(),
                     [](const auto& a, const auto& b) { return a.first < b.first; });
    std::vector<Point> points;
    for (const auto& [value, weight] : pairs) {
        if (points.empty() || points.back().position != double{value}) {
            points.push_back({value, 0.0});
        }
        points.back().weight += weight;
    }
    std::erase_if(points, [](const Point& p) { return p.weight <= 0.0; });
    return points;
}

std::vector<double> exact_centroids(std::span<const Point> points, std::size_t clusters) {
    const CostTable table(points);
    std::vector<double> centroids;
    std::size_t begin = 0;
    for (const std::size_t end : best_partition(table, clusters)) {
        double weight = 0.0, sum = 0.0;
        for (std::size_t i = begin; i < end; ++i) {
            weight += points[i].weight;
            sum += points[i].weight * points[i].position;
        }
        if (weight > 0.0) centroids.push_back(sum / weight);
        begin = end;
    }
    return centroids;
}

std::vector<double> initial_centroids(std::span<const float> x, float low, float high,
                                      std::size_t clusters, const Options& options) {
    std::vector<double> centroids(clusters);
    if (options.initialization == Initialization::linear) {
        for (std::size_t k = 0; k < clusters; ++k) {
            const double share =
                clusters == 1 ? 0.5 : static_cast<double>(k) / static_cast<double>(clusters - 1);
            centroids[k] = low + (double{high} - low) * share;
        }
        return centroids;
    }
    if (options.initialization == Initialization::density) {
        std::vector<float> sorted(x.begin(), x.end());
        std::sort(sorted.begin(), sorted.end());
        for (std::size_t k = 0; k < clusters; ++k) {
            const double share = (static_cast<double>(k) + 0.5) / static_cast<double>(clusters);
            centroids[k] = sorted[static_cast<std::size_t>(share * static_cast<double>(x.size()))];
        }
        return centroids;
    }
    // The generator's own output, not a distribution of the standard library: the same everywhere.
    std::mt19937_64 generator(options.seed);
    for (double& centroid : centroids) centroid = x[generator() % x.size()];
    std::sort(centroids.begin(), centroids.end());
    return centroids;
}

/// The values at which one centroid's cell ends and the next begins.
std::vector<float> cell_bounds(std::span<const float> centroids) {
    std::vector<float> bounds;
    for (std::size_t k = 0; k + 1 < centroids.size(); ++k) {
        bounds.push_back(static_cast<float>((double{centroids[k]} + centroids[k + 1]) / 2));
    }
    return bounds;
}

/// The cell of a value; a value on a bound belongs to the lower cell.
std::size_t cell_of(float value, std::span<const float> bounds) noexcept {
    return static_cast<std::size_t>(std::lower_bound(bounds.begin(), bounds.end(), value) -
                                    bounds.begin());
}

std::vector<float> distinct(std::span<const double> centroids) {
    std::vector<float> values;
    for (const double c : centroids) values.push_back(static_cast<float>(c));
    std::sort(values.begin(), values.end());
    values.erase(std::unique(values.begin(), values.end()), values.end());
    return values;
}

/// Moves each centroid to the mean of its cell; cells without weight vanish.
std::vector<float> move_to_means(std::span<const float> x, std::span<const float> importance,
                                 std::span<const float> centroids) {
    const std::vector<float> bounds = cell_bounds(centroids);
    std::vector<double> weights(centroids.size(), 0.0), sums(centroids.size(), 0.0);
    for (std::size_t i = 0; i < x.size(); ++i) {
        const std::size_t cell = cell_of(x[i], bounds);
        const double weight = importance_at(importance, i);
        weights[cell] += weight;
        sums[cell] += weight * x[i];
    }
    std::vector<double> means;
    for (std::size_t k = 0; k < centroids.size(); ++k) {
        if (weights[k] > 0.0) means.push_back(sums[k] / weights[k]);
    }
    return distinct(means);
}

void check(std::span<const float> x, int clusters, std::span<const float> importance,
           std::span<const std::uint8_t> codes) {
    if (clusters < 1 || clusters > max_clusters) {
        throw std::invalid_argument("clusters must be 1 to 255, not " + std::to_string(clusters));
    }
    if (codes.size() != x.size() || (!importance.empty() && importance.size() != x.size())) {
        throw std::invalid_argument("x, importance and codes must have one length");
    }
    for (std::size_t i = 0; i < x.size(); ++i) {
        if (!std::isfinite(x[i])) {
            throw std::invalid_argument("value " + std::to_string(i) + " is NaN or infinite");
        }
    }
    for (std::size_t i = 0; i < importance.size(); ++i) {
        if (!std::isfinite(importance[i]) || importance[i] < 0.0F) {
            throw std::invalid_argument("importance " + std::to_string(i) +
                                        " is negative, NaN or infinite");
        }
    }
}

}  // namespace

Clustering cluster(std::span<const float> x, int clusters, std::span<const float> importance,
                   std::span<std::uint8_t> codes, const Options& options) {
    check(x, clusters, importance, codes);
    if (x.empty()) return {};
    // Nothing matters more than anything else: the same as no importance at all.
    if (std::all_of(importance.begin(), importance.end(), [](float v) { return v == 0.0F; })) {
        importance = {};
    }
    const auto [low, high] = std::minmax_element(x.begin(), x.end());
    const auto k = static_cast<std::size_t>(clusters);
    std::vector<float> centroids;
    if (options.mode == Mode::exact) {
        const std::size_t bins = group_count(clusters);
        centroids =
            distinct(exact_centroids(x.size() <= bins ? distinct_points(x, importance)
                                                      : group(x, importance, *low, *high, bins),
                                     k));
        // A histogram cuts between bins, not exactly half-way between the means.
        if (x.size() > bins) centroids = move_to_means(x, importance, centroids);
    } else {
        centroids = distinct(initial_centroids(x, *low, *high, k, options));
        for (int i = 0; i < options.max_iterations; ++i) {
            std::vector<float> moved = move_to_means(x, importance, centroids);
            if (moved == centroids) break;
            centroids = std::move(moved);
        }
    }
    const std::vector<float> bounds = cell_bounds(centroids);
    parallel_for(x.size(), 4096, options.threads, [&](std::size_t begin, std::size_t end) {
        for (std::size_t i = begin; i < end; ++i) {
            codes[i] = static_cast<std::uint8_t>(cell_of(x[i], bounds) + 1);
        }
    });
    Clustering result{std::move(centroids), 0.0};
    for (std::size_t i = 0; i < x.size(); ++i) {
        const double distance = double{x[i]} - result.values[codes[i] - std::size_t{1}];
        result.distortion += importance_at(importance, i) * distance * distance;
    }
    return result;
}

}  // namespace tersor::kmeans
