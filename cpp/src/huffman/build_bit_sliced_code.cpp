// The stages of the code that costs least, by dynamic programming.
#include <algorithm>
#include <array>
#include <limits>
#include <vector>

#include "huffman/bit_sliced_code.hpp"

namespace tersor::huffman {
namespace {

// The price of decoding: cycles for 64 symbols that reach a stage, as measured on AVX-512, and what
// a cycle is worth in bits per symbol. It keeps the code from spending a stage on a hundredth of a
// bit; the size it gives away is below 0.1 % of the streams of pruned layers.
constexpr double base_cycles = 2.2;
constexpr double plane_cycles = 0.3;
constexpr double suffix_cycles = 1.6;
constexpr double tail_cycles = 1.6;
constexpr double wide_cycles = 1.5;  // more than four bits: a byte for each index, not half of one
constexpr double nested_cycles = 0.4;  // a suffix of fewer symbols than the one before
constexpr double bits_per_cycle = 0.005;
/// A stage's own bytes in each block, as bits per symbol of a block of 64K.
constexpr double stage_bits = 80.0 / 65536;

/// Where a suffix begins relative to the one before is tried in steps of a sixteenth of the roots,
/// and not at all for stages that fewer symbols reach.
constexpr unsigned nested_steps = 16;
constexpr double nested_share = 1.0 / 512;

/// A quick search is a full one where no more symbols are left, and begins stages behind more than
/// half as many at every so many.
constexpr std::size_t few_symbols = 64;
constexpr std::size_t quick_stride = 4;

/// What a chain costs from one symbol on, and the stage that it begins with.
struct Choice {
    double cost = std::numeric_limits<double>::infinity();
    Shape shape;
    std::size_t words = 0;
    std::size_t depth = 0;
};

std::vector<std::uint8_t> by_frequency(const Histogram& histogram) {
    std::vector<std::uint8_t> order;
    for (std::size_t s = 0; s < alphabet_size; ++s) {
        if (histogram[s] != 0) order.push_back(static_cast<std::uint8_t>(s));
    }
    std::stable_sort(order.begin(), order.end(),
                     [&](auto a, auto b) { return histogram[a] > histogram[b]; });
    return order;
}

/// But for suffixes that are not like the one before.
double cycles_of(const Shape& shape) noexcept {
    double cycles = base_cycles + plane_cycles * shape.planes + suffix_cycles * shape.suffixes;
    if (shape.tail) cycles += tail_cycles;
    if (shape.bits() > 4) cycles += wide_cycles;
    return cycles;
}

/// By number of suffixes, by symbol.
using LeastRest = std::array<std::vector<double>, max_suffixes + 1>;

/// Costs that differ by less are not told apart by a bound on them.
constexpr double rounding = 1e-9;

/// The best chain for the symbols from one on, given those for all later ones.
class Search {
public:
    /// `share_before[i]` is the share of the symbols before the i-th from here on, of all; it goes
    /// on with ones after the last of `left` symbols. `later[i]` is the choice from the i-th on,
    /// `least_rest[s][first + i]` the least cost of s suffixes, which symbols before the j-th take,
    /// and of the choice from the j-th on, j from i on.
    Search(const double* share_before, std::size_t first, std::size_t left, const Choice* later,
           const LeastRest& least_rest, bool quick) noexcept
        : share_before_(share_before),
          first_(first),
          left_(left),
          later_(later),
          least_rest_(least_rest),
          share_(1.0 - share_before[0]),
          nested_(share_ >= nested_share),
          quick_(quick && left > few_symbols) {}

    [[nodiscard]] Choice run() noexcept {
        for (int planes = 1; planes <= max_stage_bits; ++planes) {
            if (planes > 1 && std::size_t{1} << (planes - 1) >= left_) break;  // one less would do
            for (const bool tail : {false, true}) {
                for (int suffixes = 0; suffixes <= std::min(max_suffixes, max_stage_bits - planes);
                     ++suffixes) {
                    shape_.planes = planes;
                    shape_.suffixes = suffixes;
                    shape_.tail = tail;
                    shape_.suffix_roots = {};
                    const double cycles = cycles_of(shape_);
                    choose_roots(0, 0, 0, share_ * (planes + cycles * bits_per_cycle) + stage_bits);
                }
            }
        }
        return best_;
    }

private:
    /// Tries the roots of all suffixes from `suffix` on; the roots before `root` have words
    /// already, `words` in all. `cost` is what is known of the shape's cost: planes, cycles, and
    /// less the share of the words before each suffix.
    void choose_roots(int suffix, unsigned root, std::size_t words, double cost) noexcept {
        if (suffix == shape_.suffixes) {
            finish(words + (std::size_t{shape_.ending_roots() - root} << suffix), cost);
            return;
        }
        const bool fixed = suffix > 0 && !nested_;
        const unsigned end = fixed ? root + 1 : shape_.ending_roots();
        unsigned steps = suffix > 0 ? nested_steps : shape_.roots();
        if (quick_) steps = std::min(steps, suffix > 0 ? nested_steps / 2 : nested_steps);
        const unsigned step = std::max(1U, shape_.roots() / steps);
        for (unsigned first = root; first < end; first += step) {
            const std::size_t before = words + (std::size_t{first - root} << suffix);
            shape_.suffix_roots[static_cast<std::size_t>(suffix)] =
                static_cast<std::uint16_t>(first);
            // Suffixes that begin later give the last stage no more words.
            if (!shape_.tail && most_words(before, first) < left_) break;
            const double less = share_before_[std::min(before, left_)];
            const double nested = suffix > 0 && first > root ? nested_price() : 0.0;
            const double next = cost - less + nested;
            if (next + least_rest(suffix + 1, before) > best_.cost + rounding) continue;
            choose_roots(suffix + 1, first, before, next);
        }
    }
    void finish(std::size_t words, double cost) noexcept {
        if (shape_.tail ? words >= left_ : words < left_) return;
        cost += shape_.suffixes * share_before_[std::min(words, left_)];
        if (cost >= best_.cost) return;
        const Choice later = shape_.tail ? later_[words] : Choice{.cost = 0.0, .shape = {}};
        if (cost + later.cost >= best_.cost || later.depth == max_stages) return;
        best_ = {cost + later.cost, shape_, words, later.depth + 1};
    }
    /// The least that suffixes so far and later stages cost, where `before` symbols have words.
    [[nodiscard]] double least_rest(int suffixes, std::size_t before) const noexcept {
        if (!shape_.tail) return suffixes;
        // A stage has a word at least.
        const std::size_t words = std::clamp<std::size_t>(before, 1, left_);
        return least_rest_[static_cast<std::size_t>(suffixes)][first_ + words];
    }
    /// Words where all suffixes that are left begin at this root.
    [[nodiscard]] std::size_t most_words(std::size_t before, unsigned first) const noexcept {
        return before + (std::size_t{shape_.ending_roots() - first} << shape_.suffixes);
    }
    [[nodiscard]] double nested_price() const noexcept {
        return share_ * nested_cycles * bits_per_cycle;
    }

    const double* share_before_;
    std::size_t first_;
    std::size_t left_;
    const Choice* later_;
    const LeastRest& least_rest_;
    double share_;
    bool nested_;
    bool quick_;
    Shape shape_;
    Choice best_;
};

/// Each length in the order of the symbols: what a header can tell by naming the class of each
/// symbol alone.
void sort_lengths(const Shape& shape, std::span<std::uint8_t> ending) {
    for (int extra = 0; extra <= shape.suffixes; ++extra) {
        const std::size_t size = std::min<std::size_t>(shape.capacity(extra), ending.size());
        std::sort(ending.begin(), ending.begin() + static_cast<std::ptrdiff_t>(size));
        ending = ending.subspan(size);
    }
}

}  // namespace

BitSlicedCode build_bit_sliced_code(const Histogram& histogram, bool quick) {
    std::vector<std::uint8_t> order = by_frequency(histogram);
    const std::size_t n = order.size();
    double total = 0.0;
    for (const std::uint8_t s : order) total += static_cast<double>(histogram[s]);
    // Share of the symbols before each one; and after the last, as a shape may have words to spare.
    std::vector<double> below(n + alphabet_size + 1, 1.0);
    below[0] = 0.0;
    for (std::size_t i = 1; i < n; ++i) {
        below[i] = below[i - 1] + static_cast<double>(histogram[order[i - 1]]) / total;
    }
    // best[k]: the chain for the symbols from k on.
    std::vector<Choice> best(n + 1);
    LeastRest least_rest;
    for (auto& costs : least_rest) costs.assign(n + 1, best[n].cost);
    for (std::size_t k = n; k-- > 0;) {
        if (!quick || k <= few_symbols / 2 || k % quick_stride == 0) {
            best[k] = Search(below.data() + k, k, n - k, best.data() + k, least_rest, quick).run();
        }
        for (std::size_t s = 0; s < least_rest.size(); ++s) {
            const double cost = static_cast<double>(s) * below[k] + best[k].cost;
            least_rest[s][k] = std::min(least_rest[s][k + 1], cost);
        }
    }
    BitSlicedCode code;
    code.last_symbol = *std::max_element(order.begin(), order.end());
    for (std::size_t k = 0; k < n;) {
        Stage stage{best[k].shape};
        const std::size_t words = std::min(best[k].words, n - k);
        const auto remaining = std::span(order).subspan(k);
        sort_lengths(stage, remaining.first(words));
        assign_words(stage, remaining.first(words), remaining.subspan(words), code.last_symbol);
        code.stages.push_back(stage);
        k += words;
    }
    return code;
}

}  // namespace tersor::huffman
