// What a bit will be, from how often it was one in each of several contexts: their predictions are
// weighted by how well they did (logistic mixing, after Mahoney's PAQ; docs/format.md has the
// numbers). Integers alone, so that every machine predicts the same.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "contexts/logarithm.hpp"

namespace tersor::contexts {

/// How often a bit was one.
struct Counter {
    static constexpr int one = 1 << 24;
    static constexpr int least = 1 << 10;
    static constexpr int most_seen = 1000;

    int probability = one / 2;
    int seen = 0;

    /// 65536 / (i + 2): a table, as divisions would take most of the time.
    static constexpr auto shares = [] {
        std::array<std::uint16_t, most_seen + 1> table{};
        for (std::size_t i = 0; i < table.size(); ++i) {
            table[i] = static_cast<std::uint16_t>(65536 / (i + 2));
        }
        return table;
    }();

    /// The mean of all bits seen; from some on, of the last ones.
    void update(bool bit) noexcept {
        const std::int64_t towards = (bit ? one : 0) - probability;
        probability += static_cast<int>(towards * shares[static_cast<std::size_t>(seen)] >> 16);
        probability = std::clamp(probability, least, one - least);
        if (seen < most_seen) ++seen;
    }

    /// The logarithm of the odds.
    [[nodiscard]] int odds() const noexcept {
        return logarithm(static_cast<unsigned>(probability)) -
               logarithm(static_cast<unsigned>(one - probability));
    }
};

/// Predicts from `inputs` contexts, of which input 0 is the most general one: a context that was
/// never seen starts with what that says.
template <std::size_t inputs>
class Predictor {
public:
    using Contexts = std::array<std::uint32_t, inputs>;

    /// Sizes of the contexts, and of the choice of weights.
    Predictor(const Contexts& sizes, std::uint32_t choices) : weights_(choices) {
        for (std::size_t i = 0; i < inputs; ++i) counters_[i].resize(sizes[i]);
        for (auto& weights : weights_) weights.fill(one / static_cast<int>(inputs));
    }

    /// Codes a bit with what is known, and learns it. An encoder gives the bit, a decoder's is
    /// what it reads.
    template <class Coder>
    bool code(Coder& coder, const Contexts& contexts, std::uint32_t choice, bool bit) {
        std::array<Counter*, inputs> used;
        std::array<int, inputs> odds;
        std::int64_t sum = 0;
        std::array<std::int32_t, inputs>& weights = weights_[choice];
        for (std::size_t i = 0; i < inputs; ++i) {
            used[i] = &counters_[i][contexts[i]];
            if (used[i]->seen == 0) used[i]->probability = used[0]->probability;
            odds[i] = used[i]->odds();
            sum += std::int64_t{weights[i]} * odds[i];
        }
        constexpr int most = 14 * octave - 1;
        const auto mixed = static_cast<int>(std::clamp<std::int64_t>(sum >> 16, -most, most));
        const std::uint32_t probability = probability_of(mixed);
        bit = coder.code(probability, bit);
        const int error = (bit ? 65536 : 0) - static_cast<int>(probability);
        for (std::size_t i = 0; i < inputs; ++i) {
            const std::int64_t step = std::int64_t{odds[i]} * error >> learning_shift;
            weights[i] = static_cast<std::int32_t>(
                std::clamp<std::int64_t>(weights[i] + step, -16 * one, 16 * one));
            used[i]->update(bit);
        }
        return bit;
    }

private:
    static constexpr int one = 1 << 16;  // of a weight
    static constexpr int learning_shift = 17;

    std::array<std::vector<Counter>, inputs> counters_;
    std::vector<std::array<std::int32_t, inputs>> weights_;
};

}  // namespace tersor::contexts
