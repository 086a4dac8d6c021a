// The filters of a convolution as the kernels read them: for each patch the entries of each filter.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "conv/kernels.hpp"
#include "conv/tiling.hpp"
#include "support/aligned_buffer.hpp"
#include "tersor/spmm.hpp"

namespace tersor::conv {

/// The most terms of a chain of additions in fp32: see docs/kernels/conv.md.
inline constexpr std::size_t longest_chain = 256;

/// The filters of a set. A group's filters are read set after set, each in the order of its lists'
/// lengths, so that the processor predicts where most lists end.
inline constexpr std::size_t set_filters = 64;

/// Sets of a group of filters.
[[nodiscard]] constexpr std::size_t sets_of(std::size_t group_filters) noexcept {
    return (group_filters + set_filters - 1) / set_filters;
}

/// Entries in the order in which they are read: by group, block and set. What a filter has of a
/// block, a list, is one run or several, each of which the kernels can sum without an overflow or a
/// long chain.
struct Filters {
    support::AlignedBuffer<std::uint16_t> offsets;
    support::AlignedBuffer<std::uint32_t> weights;
    std::vector<std::uint32_t> runs;   // where each begins, and the end of the last
    std::vector<std::uint32_t> lists;  // the first run of each, and the number of runs
    std::vector<std::uint32_t> order;  // of each list, the filter
    std::vector<float> units;          // by filter: the weight that an integer 1 stands for
    std::vector<float> totals;         // by filter: the sum of the integers; quads alone

    [[nodiscard]] std::size_t nbytes() const noexcept {
        return offsets.nbytes() + weights.nbytes() +
               4 * (runs.size() + lists.size() + order.size() + units.size() + totals.size());
    }
};

/// The share of words with a weight among all, where weights are kept at random.
[[nodiscard]] double density_of_words(const PackedMatrix& matrix, Word word);

/// By filter, the integers that stand for 1; nothing where some filter's integers of this kind
/// would not meet the class. All 1 for floats.
[[nodiscard]] std::optional<std::vector<float>> scales_for(const PackedMatrix& matrix, Word word,
                                                           Precision precision);

/// `scales` are those of `scales_for`.
[[nodiscard]] Filters make_filters(const PackedMatrix& matrix, const Shape& shape,
                                   const Tiling& tiling, Word word, std::span<const float> scales);

}  // namespace tersor::conv
