// The codes of a pruned, weight-shared matrix, one after the other: first whether a weight is kept,
// then which entry of the codebook it has. What is expected follows from the row and the column so
// far and from the neighbours before. docs/format.md has the contexts.
#pragma once

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "contexts/logarithm.hpp"
#include "contexts/matrix.hpp"
#include "contexts/predictor.hpp"

namespace tersor::contexts {

/// Codes all of a matrix: `Coder` is an Encoder, which reads `codes`, or a Decoder, which fills
/// them.
template <class Coder>
class MatrixModel {
public:
    /// `values` are those of the codebook, `codes` of `shape.rows * shape.cols` elements, of which
    /// `nonzeros` are not 0; those of a decoder are 0.
    MatrixModel(Coder& coder, const Grouping& shape, std::span<const float> values,
                std::uint64_t nonzeros, std::span<std::uint8_t> codes)
        : coder_(coder),
          shape_(shape),
          codes_(codes),
          signs_(values.size() + 1),
          left_(nonzeros),
          density_((nonzeros << 24) / std::max<std::size_t>(codes.size(), 1)),
          in_column_(shape.cols + 2),
          in_group_(shape.cols / shape.taps),
          value_bits_(static_cast<int>(std::bit_width(values.size() - 1))) {
        for (std::size_t c = 0; c < values.size(); ++c) signs_[c + 1] = values[c] < 0 ? 1 : 2;
    }

    /// Returns how many of the non-zeros were not found, 0 for an encoder.
    std::uint64_t code() {
        for (std::size_t row = 0; row < shape_.rows && is_open(); ++row) code_row(row);
        return left_;
    }

private:
    static constexpr std::uint32_t ratios = 13;

    [[nodiscard]] bool is_open() const noexcept { return left_ != 0 && !coder_.exhausted(); }

    void code_row(std::size_t row) {
        std::uint8_t* const codes = codes_.data() + row * shape_.cols;
        const std::uint8_t* const above = row > 0 ? codes - shape_.cols : nullptr;
        in_row_ = 0;
        recent_ = 0;
        for (std::size_t group = 0; group < in_group_.size() && is_open(); ++group) {
            in_taps_ = 0;
            const std::size_t first = group * shape_.taps;
            taps_above_ = 0;
            if (above != nullptr && shape_.taps > 1) {
                const auto zeros = std::count(above + first, above + first + shape_.taps, 0);
                taps_above_ = shape_.taps - static_cast<std::size_t>(zeros);
            }
            for (std::size_t tap = 0; tap < shape_.taps && left_ != 0; ++tap) {
                code_weight(row, first + tap, tap, codes, above);
            }
            in_group_[group] += in_taps_;
        }
    }

    void code_weight(std::size_t row, std::size_t col, std::size_t tap, std::uint8_t* codes,
                     const std::uint8_t* above) {
        const auto before = [&](std::size_t n) { return col >= n ? codes[col - n] : 0U; };
        const auto over = [&](std::size_t at) {
            return above != nullptr && at < shape_.cols ? above[at] : 0U;
        };
        const bool grouped = shape_.taps > 1;
        const unsigned left = before(1);
        const unsigned second = before(2);
        const unsigned up = over(col);
        const unsigned beside = (over(col - 1) != 0 ? 1U : 0U) + (over(col + 1) != 0 ? 2U : 0U);
        const unsigned pattern = (left != 0 ? 1U : 0U) + (second != 0 ? 2U : 0U) +
                                 (before(3) != 0 ? 4U : 0U) + (up != 0 ? 8U : 0U) + 16 * beside;
        const std::uint32_t by_row = ratio(in_row_, col);
        const std::uint32_t by_columns =
            ratio(2 * in_column_[col + 1] + in_column_[col] + in_column_[col + 2], 4 * row);
        const std::uint32_t by_group =
            grouped ? ratio(in_group_[col / shape_.taps] + in_taps_, row * shape_.taps + tap)
                    : ratio(in_column_[col + 1], row);
        const auto near =
            static_cast<std::uint32_t>(std::min<std::size_t>(grouped ? in_taps_ : recent_, 3));
        const auto place = static_cast<std::uint32_t>(grouped ? 4 * tap / shape_.taps : 0);
        const std::uint32_t local = grouped ? near * 4 + place : std::min(recent_, 7U);
        const auto behind = static_cast<std::uint32_t>(
            grouped ? std::min<std::size_t>(taps_above_, 3) : std::popcount(pattern >> 3));
        const bool kept = kept_.code(
            coder_,
            {0, by_group * ratios + by_row, by_columns * ratios + by_row, pattern * 4 + near,
             local * ratios + by_group, (behind * 16 + local) * ratios + by_row},
            near, codes[col] != 0);
        recent_ += kept ? 1 : 0;
        recent_ -= before(8) != 0 ? 1 : 0;
        if (!kept) return;
        const unsigned line_before =
            shape_.width > 1 && tap >= shape_.width ? before(shape_.width) : (grouped ? 0U : up);
        code_value(codes[col], signs_[left] * 9U + signs_[line_before] * 3U + signs_[second],
                   by_row);
        ++in_row_;
        ++in_taps_;
        ++in_column_[col + 1];
        --left_;
    }

    /// The number of a codebook's entry, bit by bit from the highest; what is not to be chosen from
    /// takes no bits.
    void code_value(std::uint8_t& code, std::uint32_t signs, std::uint32_t by_row) {
        const auto entries = static_cast<std::uint32_t>(signs_.size() - 1);
        const std::uint32_t entry = code - 1U;
        std::uint32_t found = 0;
        for (int bit = value_bits_ - 1; bit >= 0; --bit) {
            const std::uint32_t high = found | 1U << bit;
            if (high >= entries) continue;
            const std::uint32_t node = (1U << (value_bits_ - 1 - bit)) | (found >> (bit + 1));
            const bool one = value_.code(coder_, {node, node * 27 + signs, node * ratios + by_row},
                                         0, (entry >> bit & 1) != 0);
            if (one) found = high;
        }
        code = static_cast<std::uint8_t>(found + 1);
    }

    /// Kept ones of `count`, by how many were expected, in octaves from -6 to 6.
    [[nodiscard]] std::uint32_t ratio(std::uint64_t kept, std::uint64_t count) const noexcept {
        const std::uint64_t expected = (count * density_ >> 8) + (2 << 16);
        const int octaves =
            (logarithm((kept + 2) << 16) - logarithm(expected) + octave / 2 + 6 * octave) / octave;
        return static_cast<std::uint32_t>(std::clamp(octaves, 0, 12));
    }

    Coder& coder_;
    const Grouping shape_;
    std::span<std::uint8_t> codes_;
    std::vector<std::uint8_t> signs_;       // of each code: 0 none, 1 negative, 2 positive
    std::uint64_t left_;                    // to be kept
    std::uint64_t density_;                 // in 2^-24
    std::vector<std::uint32_t> in_column_;  // kept so far, from entry 1 on
    std::vector<std::uint32_t> in_group_;
    std::size_t in_row_ = 0;
    std::size_t in_taps_ = 0;
    std::size_t taps_above_ = 0;
    unsigned recent_ = 0;  // kept of the last eight
    int value_bits_;
    Predictor<6> kept_{{1, ratios * ratios, ratios * ratios, 256, 16 * ratios, 64 * ratios}, 4};
    Predictor<3> value_{{256, 256 * 27, 256 * ratios}, 1};
};

}  // namespace tersor::contexts
