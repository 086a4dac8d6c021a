// Symbols of several distributions, and what Huffman's codes take for them.
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <queue>
#include <random>
#include <vector>

#include "tersor/huffman.hpp"

namespace tersor::test {

using Bytes = std::vector<std::uint8_t>;

/// Geometric symbols: entropy and alphabet grow as `share` falls.
inline Bytes random_symbols(std::size_t size, double share, unsigned seed) {
    std::mt19937 generator(seed);
    std::geometric_distribution<int> distribution(share);
    Bytes symbols(size);
    for (auto& s : symbols) s = static_cast<std::uint8_t>(std::min(distribution(generator), 255));
    return symbols;
}

inline Bytes flat_symbols(std::size_t size, unsigned alphabet, unsigned seed) {
    std::mt19937 generator(seed);
    Bytes symbols(size);
    for (auto& s : symbols) s = static_cast<std::uint8_t>(generator() % alphabet);
    return symbols;
}

/// The cost of Huffman's own algorithm: the sum of all merged weights.
inline std::uint64_t huffman_bits(const huffman::Histogram& counts) {
    std::priority_queue<std::uint64_t, std::vector<std::uint64_t>, std::greater<>> heap;
    for (const std::uint64_t count : counts) {
        if (count != 0) heap.push(count);
    }
    std::uint64_t bits = 0;
    while (heap.size() > 1) {
        const std::uint64_t a = heap.top();
        heap.pop();
        const std::uint64_t b = heap.top();
        heap.pop();
        heap.push(a + b);
        bits += a + b;
    }
    return bits;
}

}  // namespace tersor::test
