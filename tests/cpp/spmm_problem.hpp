// Random compressed matrices and activations.
#pragma once

#include <cstdint>
#include <random>
#include <vector>

#include "tersor/csr.hpp"

namespace tersor::test {

struct Problem {
    std::uint32_t rows, cols;
    std::vector<float> dense;  // [rows, cols]
    std::vector<float> codebook;
    RelativeCsr csr;
};

/// Entries drawn from `codebook` (whose first value is 0) at the given density.
inline Problem make_problem(std::uint32_t rows, std::uint32_t cols, double density,
                            std::vector<float> codebook, unsigned seed) {
    std::mt19937 generator(seed);
    Problem p{rows, cols, {}, std::move(codebook), {}};
    std::vector<std::uint8_t> codes(std::size_t{rows} * cols);
    const auto values = static_cast<unsigned>(p.codebook.size() - 1);
    for (auto& code : codes) {
        const bool kept = static_cast<double>(generator() % 10000) < density * 10000;
        code = kept ? static_cast<std::uint8_t>(1 + generator() % values) : std::uint8_t{0};
        p.dense.push_back(p.codebook[code]);
    }
    p.csr = csr::encode(codes, rows, cols, 4);
    return p;
}

/// The same with `values` normally distributed shared weights.
inline Problem make_problem(std::uint32_t rows, std::uint32_t cols, double density, int values,
                            unsigned seed) {
    std::mt19937 generator(seed);
    std::normal_distribution<float> normal;
    std::vector<float> codebook = {0.0F};
    for (int i = 0; i < values; ++i) codebook.push_back(normal(generator));
    return make_problem(rows, cols, density, std::move(codebook), seed);
}

inline std::vector<float> random_x(std::size_t size, unsigned seed) {
    std::mt19937 generator(seed);
    std::normal_distribution<float> normal;
    std::vector<float> x(size);
    for (float& v : x) v = normal(generator);
    return x;
}

}  // namespace tersor::test
