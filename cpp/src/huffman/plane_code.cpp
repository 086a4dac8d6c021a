#include "huffman/plane_code.hpp"

#include <algorithm>
#include <bit>
#include <limits>

#include "huffman/bits.hpp"
#include "support/varint.hpp"

namespace tersor::huffman {
namespace {

// The price of decoding: cycles for 64 symbols that reach a stage, as measured on AVX-512, and what
// a cycle is worth in bits per symbol. It keeps the code from spending a stage on a hundredth of a
// bit; the size it gives away is below 0.1 % of the streams of pruned layers.
constexpr double base_cycles = 2.2;
constexpr double plane_cycles = 0.3;
constexpr double level_cycles = 1.6;
constexpr double tail_cycles = 1.6;
constexpr double wide_cycles = 1.5;  // more than four bits: a byte for each index, not half of one
constexpr double bits_per_cycle = 0.005;
/// A stage's own bytes in each block, as bits per symbol of a block of 64K.
constexpr double stage_bits = 80.0 / 65536;

/// What a chain costs from one symbol on, and the stage that it begins with.
struct Choice {
    double cost = std::numeric_limits<double>::infinity();
    int planes = 0;
    unsigned short_roots = 0;
    int levels = 0;
    bool tail = false;
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

double cycles_of(int planes, int levels, bool tail) noexcept {
    return base_cycles + plane_cycles * planes + level_cycles * levels +
           (tail ? tail_cycles : 0.0) + (planes + levels > 4 ? wide_cycles : 0.0);
}

/// Gives each symbol of a stage its index, in the order of the symbols within each word length.
void assign(Stage& stage, std::span<const std::uint8_t> ending, std::span<const std::uint8_t> later,
            std::uint8_t last_symbol) noexcept {
    stage.last_symbol = last_symbol;
    stage.symbols.fill(ending.empty() ? std::uint8_t{0} : ending[0]);
    for (unsigned i = 0; i < ending.size(); ++i) {
        const unsigned index = i < stage.short_roots
                                   ? i << stage.levels
                                   : (stage.short_roots << stage.levels) + (i - stage.short_roots);
        stage.symbols[index] = ending[i];
        stage.indices[ending[i]] = static_cast<std::uint8_t>(index);
    }
    for (const std::uint8_t symbol : later) stage.indices[symbol] = stage.tail_index();
}

/// Short words first, each length in the order of the symbols: what a header can tell by naming
/// the class of each symbol alone.
void sort_classes(std::span<std::uint8_t> ending, unsigned short_roots) {
    const auto middle =
        ending.begin() + std::min<std::ptrdiff_t>(static_cast<std::ptrdiff_t>(short_roots),
                                                  static_cast<std::ptrdiff_t>(ending.size()));
    std::sort(ending.begin(), middle);
    std::sort(middle, ending.end());
}

/// Calls `visit(symbol, is_long)` for each symbol that ends in a stage.
template <class Visit>
void for_each_word(const Stage& stage, const Visit& visit) {
    for (unsigned index = 0; index < 1U << stage.bits(); ++index) {
        const std::uint8_t symbol = stage.symbols[index];
        if (stage.indices[symbol] != index) continue;  // an index that no symbol has
        visit(symbol, index >> stage.levels >= stage.short_roots);
    }
}

/// Bits that name a class. Class 0 has no word; then two for each stage, short and long words.
int class_width(const PlaneCode& code) noexcept {
    return static_cast<int>(std::bit_width(2 * code.stages.size()));
}

}  // namespace

PlaneCode build_plane_code(const Histogram& histogram) {
    std::vector<std::uint8_t> order = by_frequency(histogram);
    const std::size_t n = order.size();
    std::vector<double> below(n + 1, 0.0);  // share of the symbols before each one
    double total = 0.0;
    for (const std::uint8_t s : order) total += static_cast<double>(histogram[s]);
    for (std::size_t i = 0; i < n; ++i) {
        below[i + 1] = below[i] + static_cast<double>(histogram[order[i]]) / total;
    }
    // best[k]: the chain for the symbols from k on.
    std::vector<Choice> best(n + 1);
    best[n].cost = 0.0;
    std::vector<std::size_t> depth(n + 1, 0);
    for (std::size_t k = n; k-- > 0;) {
        const auto left = static_cast<unsigned>(n - k);
        const double share = below[n] - below[k];
        for (int planes = 1; planes <= max_stage_bits; ++planes) {
            const unsigned roots = 1U << planes;
            if (planes > 1 && roots / 2 >= left) break;  // one plane less would do
            for (unsigned shorts = 0; shorts <= std::min(roots, left); ++shorts) {
                for (int tail = 0; tail <= 1; ++tail) {
                    if (shorts + static_cast<unsigned>(tail) > roots) continue;
                    const unsigned longs = roots - shorts - static_cast<unsigned>(tail);
                    for (int levels = longs == 0 ? 0 : 1; levels <= (longs == 0 ? 0 : max_levels);
                         ++levels) {
                        if (planes + levels > max_stage_bits) continue;
                        const unsigned words = shorts + (longs << levels);
                        if (tail != 0 ? words >= left || depth[k + words] + 1 >= max_stages
                                      : words < left) {
                            continue;
                        }
                        const unsigned ending = std::min(words, left);
                        const double long_share =
                            below[k + ending] - below[k + std::min(shorts, ending)];
                        const double cycles = cycles_of(planes, levels, tail != 0) * bits_per_cycle;
                        double cost = share * (planes + cycles) + long_share * levels + stage_bits;
                        if (tail != 0) cost += best[k + words].cost;
                        if (cost >= best[k].cost) continue;
                        best[k] = {cost, planes, shorts, levels, tail != 0};
                        depth[k] = tail != 0 ? depth[k + words] + 1 : 1;
                    }
                }
            }
        }
    }
    PlaneCode code;
    code.last_symbol = *std::max_element(order.begin(), order.end());
    for (std::size_t k = 0; k < n;) {
        Stage stage;
        stage.planes = best[k].planes;
        stage.short_roots = best[k].short_roots;
        stage.levels = best[k].levels;
        stage.tail = best[k].tail;
        const std::size_t words = std::min<std::size_t>(stage.capacity(), n - k);
        const auto rest = std::span(order).subspan(k);
        sort_classes(rest.first(words), stage.short_roots);
        assign(stage, rest.first(words), rest.subspan(words), code.last_symbol);
        code.stages.push_back(stage);
        k += words;
    }
    return code;
}

std::uint64_t coded_bits(const PlaneCode& code, const Histogram& histogram) noexcept {
    std::uint64_t bits = 0;
    std::uint64_t left = 0;
    for (const std::uint64_t count : histogram) left += count;
    for (const Stage& stage : code.stages) {
        bits += left * static_cast<unsigned>(stage.planes);
        for_each_word(stage, [&](std::uint8_t symbol, bool is_long) {
            left -= histogram[symbol];
            if (is_long) bits += histogram[symbol] * static_cast<unsigned>(stage.levels);
        });
    }
    return bits;
}

void append_plane_code(const PlaneCode& code, std::vector<std::uint8_t>& out) {
    out.push_back(code.last_symbol);
    for (const Stage& stage : code.stages) {
        const unsigned shape = static_cast<unsigned>(stage.planes - 1) |
                               (static_cast<unsigned>(stage.levels) << 3) |
                               ((stage.tail ? 1U : 0U) << 5);
        out.push_back(static_cast<std::uint8_t>(shape));
        support::append_varint(stage.short_roots, out);
    }
    // Which class each symbol is of, in as many bits as the number of classes needs.
    std::array<std::uint8_t, alphabet_size> classes{};
    for (std::size_t s = 0; s < code.stages.size(); ++s) {
        for_each_word(code.stages[s], [&](std::uint8_t symbol, bool is_long) {
            classes[symbol] = static_cast<std::uint8_t>(1 + 2 * s + (is_long ? 1 : 0));
        });
    }
    append_fields(std::span(classes).first(std::size_t{code.last_symbol} + 1), class_width(code),
                  out);
}

Result read_plane_code(std::span<const std::uint8_t> bytes, PlaneCode& code) {
    code = {};
    support::Cursor cursor(bytes);
    code.last_symbol = cursor.byte();
    do {
        Stage stage;
        const std::uint8_t shape = cursor.byte();
        stage.planes = (shape & 7) + 1;
        stage.levels = (shape >> 3) & 3;
        stage.tail = (shape >> 5) != 0;
        const std::uint64_t shorts = cursor.varint();
        if (!cursor.ok()) return cursor.result();
        stage.short_roots = static_cast<unsigned>(std::min<std::uint64_t>(shorts, 257));
        const bool fits =
            shape >> 6 == 0 && stage.levels <= max_levels && stage.bits() <= max_stage_bits &&
            stage.short_roots + (stage.tail ? 1U : 0U) <= stage.roots() &&
            (stage.long_roots() == 0) == (stage.levels == 0) && code.stages.size() < max_stages;
        if (!fits) return {Status::bad_code_lengths, cursor.position() - 1};
        code.stages.push_back(stage);
    } while (code.stages.back().tail);

    std::array<std::uint8_t, alphabet_size> memory{};
    const std::span<std::uint8_t> classes =
        std::span(memory).first(std::size_t{code.last_symbol} + 1);
    const int width = class_width(code);
    const std::span<const std::uint8_t> packed = cursor.take(fields_size(classes.size(), width));
    if (!cursor.ok()) return cursor.result();
    const Result fault{Status::bad_code_lengths, cursor.position() - 1};
    if (!read_fields(packed, width, classes).ok()) return fault;
    if (classes.back() == 0) return fault;  // the last symbol has a word
    std::vector<std::vector<std::uint8_t>> members(2 * code.stages.size());
    for (std::size_t symbol = 0; symbol < classes.size(); ++symbol) {
        const std::uint8_t kind = classes[symbol];
        if (kind > members.size()) return fault;
        if (kind > 0) members[kind - 1U].push_back(static_cast<std::uint8_t>(symbol));
    }
    std::vector<std::uint8_t> order;
    for (const auto& part : members) order.insert(order.end(), part.begin(), part.end());
    std::size_t first = 0;
    for (std::size_t s = 0; s < code.stages.size(); ++s) {
        Stage& stage = code.stages[s];
        const std::size_t words = members[2 * s].size() + members[2 * s + 1].size();
        // Short roots are used up before long ones; only the last stage may have room to spare.
        const std::size_t shorts = std::min<std::size_t>(stage.short_roots, words);
        if (words == 0 || words > stage.capacity() || members[2 * s].size() != shorts ||
            (stage.tail && words != stage.capacity())) {
            return fault;
        }
        assign(stage, std::span(order).subspan(first, words),
               std::span(order).subspan(first + words), code.last_symbol);
        first += words;
    }
    return {Status::ok, cursor.position()};
}

}  // namespace tersor::huffman
