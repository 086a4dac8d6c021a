// One-dimensional clustering of weights: the codebook of weight sharing.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace tersor::kmeans {

enum class Mode : std::uint8_t {
    exact,  // fine histogram + dynamic programming: the global optimum up to the bin width
    lloyd,  // iterations from an initialisation, as in Deep Compression, section 3
};

/// Initial centroids of Lloyd's algorithm: Deep Compression, section 3.2.
enum class Initialization : std::uint8_t {
    linear,   // evenly spaced over [min, max]
    density,  // evenly spaced over the cumulative distribution
    random,   // k distinct samples (Forgy)
};

struct Options {
    Mode mode = Mode::exact;
    Initialization initialization = Initialization::linear;
    int max_iterations = 100;  // Lloyd only
    std::uint64_t seed = 0;    // random initialisation only
    int threads = 1;           // never changes the result
};

inline constexpr int max_clusters = 255;

struct Clustering {
    std::vector<float> values;  // ascending, distinct; fewer than asked when fewer values occur
    double distortion = 0.0;    // sum of importance * (x - value)^2
};

/// Clusters `x` into at most `clusters` (1 to 255) values and writes to `codes` [x.size()] the
/// 1-based number of each element's value, so that 0 stays free for "pruned".
/// `importance` is empty or has one non-negative weight per element (for example a Hessian
/// diagonal: Choi et al., arXiv 1612.01543, section 3.3); centroids are then weighted means.
/// The result is the same on every instruction set and for every number of threads.
/// Throws std::invalid_argument for sizes that differ, clusters out of range, or x or importance
/// that is not finite (or negative).
[[nodiscard]] Clustering cluster(std::span<const float> x, int clusters,
                                 std::span<const float> importance, std::span<std::uint8_t> codes,
                                 const Options& options = {});

}  // namespace tersor::kmeans
