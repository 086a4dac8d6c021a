// Random compressed matrices and activations.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <random>
#include <span>
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

/// |y - y_ref| <= c(n) * eps * sum |w||x| with the c(n) of docs/kernels, n being the terms that
/// are not 0, and 2^-149 for each product that is denormal.
inline void expect_contract(const Problem& p, std::span<const float> x, std::size_t batch,
                            std::span<const float> bias, std::span<const float> y) {
    for (std::size_t n = 0; n < batch; ++n) {
        for (std::size_t r = 0; r < p.rows; ++r) {
            double sum = bias.empty() ? 0.0 : double{bias[r]};
            double magnitude = std::abs(sum);
            double terms = 0.0;
            double denormal = 0.0;
            for (std::size_t k = 0; k < p.cols; ++k) {
                const double product = double{p.dense[r * p.cols + k]} * x[n * p.cols + k];
                sum += product;
                magnitude += std::abs(product);
                terms += product != 0.0 ? 1.0 : 0.0;
                denormal += product != 0.0 && std::abs(product) < 0x1p-126 ? 1.0 : 0.0;
            }
            const double c = 4.0 + std::min(terms, 256.0) / 2.0 + terms / 32.0;
            ASSERT_NEAR(y[n * p.rows + r], sum, c * 0x1p-23 * magnitude + denormal * 0x1p-149) << r;
        }
    }
}

struct KindOfActivation {
    const char* name;
    std::function<float(float, std::size_t)> make;  // from a normal value and its position
};

inline std::vector<KindOfActivation> kinds_of_activation(std::size_t cols) {
    return {
        {"normal", [](float v, std::size_t) { return v; }},
        {"after a ReLU", [](float v, std::size_t) { return std::max(v, 0.0F); }},
        {"negative", [](float v, std::size_t) { return -std::abs(v); }},
        {"zero", [](float, std::size_t) { return 0.0F; }},
        {"all equal", [](float, std::size_t) { return 0.37F; }},
        {"all equal, negative", [](float, std::size_t) { return -2.5F; }},
        {"shifted", [](float v, std::size_t) { return 1000.0F + v; }},
        {"one outlier", [](float v, std::size_t k) { return k == 123 ? 10000.0F : v; }},
        {"one negative outlier", [](float v, std::size_t k) { return k == 7 ? -10000.0F : v; }},
        {"one element", [cols](float v, std::size_t k) { return k == cols - 1 ? v : 0.0F; }},
        {"small", [](float v, std::size_t) { return v * 1e-30F; }},
        {"below the scaled range", [](float v, std::size_t) { return v * 1e-36F; }},
        {"denormal", [](float v, std::size_t) { return v * 1e-40F; }},
        {"large", [](float v, std::size_t) { return v * 1e34F; }},
    };
}

}  // namespace tersor::test
