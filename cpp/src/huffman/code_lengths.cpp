// Optimal length-limited prefix codes by package-merge: L. L. Larmore, D. S. Hirschberg, "A fast
// algorithm for optimal length-limited Huffman codes", J. ACM 37 (1990).
#include <algorithm>
#include <cmath>
#include <numeric>
#include <stdexcept>
#include <string>

#include "tersor/huffman.hpp"

namespace tersor::huffman {
namespace {

struct Element {
    std::uint64_t weight;
    bool is_symbol;  // otherwise a package of two elements of the level below
};

/// Pairs up neighbours of a sorted level, and merges the packages with the symbols themselves.
std::vector<Element> next_level(const std::vector<std::uint64_t>& weights,
                                const std::vector<Element>& below) {
    std::vector<Element> level;
    level.reserve(weights.size() + below.size() / 2);
    std::size_t symbol = 0;
    for (std::size_t pair = 0; pair + 1 < below.size(); pair += 2) {
        const std::uint64_t weight = below[pair].weight + below[pair + 1].weight;
        for (; symbol < weights.size() && weights[symbol] <= weight; ++symbol) {
            level.push_back({weights[symbol], true});
        }
        level.push_back({weight, false});
    }
    for (; symbol < weights.size(); ++symbol) level.push_back({weights[symbol], true});
    return level;
}

}  // namespace

double entropy(const Histogram& histogram) noexcept {
    const auto total =
        static_cast<double>(std::accumulate(histogram.begin(), histogram.end(), std::uint64_t{0}));
    double bits = 0.0;
    for (const std::uint64_t count : histogram) {
        if (count != 0) {
            const double p = static_cast<double>(count) / total;
            bits -= p * std::log2(p);
        }
    }
    return bits;
}

CodeLengths code_lengths(const Histogram& histogram, int max_length) {
    std::vector<std::uint8_t> symbols;
    for (std::size_t s = 0; s < alphabet_size; ++s) {
        if (histogram[s] != 0) symbols.push_back(static_cast<std::uint8_t>(s));
    }
    if (max_length < 1 || max_length > max_code_length ||
        symbols.size() > std::size_t{1} << max_length) {
        throw std::invalid_argument("max_length " + std::to_string(max_length) +
                                    " is out of 1 to 15 or too short for " +
                                    std::to_string(symbols.size()) + " symbols");
    }
    CodeLengths lengths{};
    if (symbols.empty()) return lengths;
    if (symbols.size() == 1) {
        lengths[symbols[0]] = 1;
        return lengths;
    }
    std::stable_sort(symbols.begin(), symbols.end(),
                     [&](std::uint8_t a, std::uint8_t b) { return histogram[a] < histogram[b]; });
    std::vector<std::uint64_t> weights;
    weights.reserve(symbols.size());
    for (const std::uint8_t s : symbols) weights.push_back(histogram[s]);

    std::vector<std::vector<Element>> levels;
    levels.reserve(static_cast<std::size_t>(max_length));
    for (int depth = 0; depth < max_length; ++depth) {
        levels.push_back(
            next_level(weights, levels.empty() ? std::vector<Element>{} : levels.back()));
    }
    // The cheapest 2n - 2 elements of the top level make the code: every occurrence of a symbol in
    // them, or in the packages that they hold, is one bit of its word.
    std::size_t taken = 2 * symbols.size() - 2;
    for (std::size_t depth = levels.size(); depth-- > 0 && taken > 0;) {
        const auto end = levels[depth].begin() + static_cast<std::ptrdiff_t>(taken);
        const auto chosen = static_cast<std::size_t>(std::count_if(
            levels[depth].begin(), end, [](const Element& e) { return e.is_symbol; }));
        for (std::size_t i = 0; i < chosen; ++i) ++lengths[symbols[i]];
        taken = 2 * (taken - chosen);
    }
    return lengths;
}

}  // namespace tersor::huffman
