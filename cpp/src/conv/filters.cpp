#include "conv/filters.hpp"

#include <algorithm>
#include <bit>
#include <cmath>
#include <numeric>
#include <stdexcept>

#include "spmm/fixed_point.hpp"
#include "spmm/packed_matrix.hpp"

namespace tersor::conv {
namespace {

/// Calls `visit(column, weight)` for the non-zeros of a row, in order.
template <class Visit>
void for_each_weight(const PackedMatrix::Layout& layout, std::size_t row, const Visit& visit) {
    const spmm::Csr16& csr16 = layout.csr16();
    for (std::size_t b = 0; b < csr16.blocks.size(); ++b) {
        const spmm::BlockView block = layout.view(csr16, b);
        for (std::uint64_t i = block.row_starts[row]; i < block.row_starts[row + 1]; ++i) {
            visit(block.first_column + block.columns[i], block.weight(i));
        }
    }
}

/// What the integers of a kind may be, and what becomes of the class's bound beside them.
struct Limits {
    double largest;  // integer
    double share;    // of sum |w|, that the errors of the weights may be
};

Limits limits_of(Word word, Precision precision) noexcept {
    const bool quads = word == Word::quads;
    // An activation is off by half a unit. The range of quads goes from the smallest to the largest
    // activation and may be twice the largest magnitude. Sums are rounded in fp32.
    const double rounding = quads ? 1.0 / quad_scale : 0.5 / pair_scale;
    const double in_fp32 = 0x1p-17;
    return {quads ? 127.0 : 32767.0, spmm::error_limit(precision) - rounding - in_fp32};
}

/// The smallest scale, or nearly, with which a filter's integers meet the limits; 0 where none
/// does. Small integers let more terms be summed before their sum is converted.
double scale_of(std::span<const float> weights, Word word, const Limits& limits) noexcept {
    double largest = 0.0;
    double sum = 0.0;
    for (const float w : weights) {
        largest = std::max(largest, std::abs(double{w}));
        sum += std::abs(double{w});
    }
    if (largest == 0.0) return 1.0;
    if (largest < 0x1p-90 || largest > 0x1p90) return 0.0;
    const double finest = limits.largest / largest;
    const auto meets = [&](double scale) {
        double error = 0.0;
        for (const float w : weights) error += std::abs(w - std::nearbyint(w * scale) / scale);
        return error <= limits.share * sum;
    };
    if (word == Word::quads) return meets(finest) ? finest : 0.0;
    // Roundings are a quarter on average.
    const double average = sum / static_cast<double>(weights.size());
    double scale = 0.2 / (limits.share * average);
    while (scale < finest && !meets(scale)) scale *= 1.2;
    if (scale < finest) return scale;
    return meets(finest) ? finest : 0.0;
}

/// Gathers the entries of one filter after the other.
class Collector {
public:
    Collector(const Shape& shape, const Tiling& tiling, Word word)
        : tiling_(tiling),
          word_(word),
          taps_(shape.taps()),
          words_(shape.taps(), 0),
          magnitudes_(shape.taps(), 0) {}

    struct Entry {
        std::uint32_t block;
        std::uint16_t offset;
        std::uint16_t magnitude;  // of the integers, the sum
        std::uint32_t weight;
    };

    [[nodiscard]] std::vector<Entry>& entries() noexcept { return entries_; }

    void add(std::size_t column, float weight, float scale) {
        const std::size_t channel = column / taps_;
        const std::size_t tap = column % taps_;
        if (channel / channels_of(word_) != channel_) flush();
        channel_ = channel / channels_of(word_);
        if (word_ == Word::floats) {
            words_[tap] = std::bit_cast<std::uint32_t>(weight);
            magnitudes_[tap] = 1;
            return;
        }
        const auto integer = static_cast<int>(std::lrint(weight * scale));
        const unsigned bits = 32U / static_cast<unsigned>(channels_of(word_));
        const auto place = bits * static_cast<unsigned>(channel % channels_of(word_));
        const std::uint32_t mask = bits == 16 ? 0xffffU : 0xffU;
        words_[tap] |= (static_cast<std::uint32_t>(integer) & mask) << place;
        magnitudes_[tap] += static_cast<std::uint32_t>(std::abs(integer));
        total_ += integer;
    }
    /// Ends a filter; returns the sum of its integers.
    double finish() {
        flush();
        const double total = total_;
        total_ = 0.0;
        return total;
    }

private:
    void flush() {
        for (std::size_t tap = 0; tap < taps_; ++tap) {
            if (magnitudes_[tap] == 0) continue;
            const std::size_t block =
                channel_ / tiling_.block_words * tiling_.slices + tap / tiling_.slice_taps;
            const std::size_t vector =
                channel_ % tiling_.block_words * tiling_.slice_vectors + tiling_.tap_vectors[tap];
            entries_.push_back({static_cast<std::uint32_t>(block),
                                static_cast<std::uint16_t>(vector * vector_bytes / offset_unit),
                                static_cast<std::uint16_t>(magnitudes_[tap]), words_[tap]});
            words_[tap] = 0;
            magnitudes_[tap] = 0;
        }
    }

    const Tiling& tiling_;
    Word word_;
    std::size_t taps_;
    std::size_t channel_ = 0;  // of words
    double total_ = 0.0;
    std::vector<std::uint32_t> words_;       // by tap, of one channel
    std::vector<std::uint32_t> magnitudes_;  // the same
    std::vector<Entry> entries_;
};

/// Writes entries, list after list, and divides them into runs.
class Writer {
public:
    Writer(Filters& filters, Word word) : filters_(filters), word_(word) {}

    void begin_list(std::uint32_t filter) {
        filters_.order.push_back(filter);
        begin_list();
    }
    void add(const Collector::Entry& entry) {
        const std::uint64_t room = word_ == Word::floats  ? longest_chain
                                   : word_ == Word::pairs ? INT32_MAX / pair_scale
                                                          : INT32_MAX / 255;
        if (magnitude_ + entry.magnitude > room) begin_run();
        magnitude_ += entry.magnitude;
        filters_.offsets[at_] = entry.offset;
        filters_.weights[at_] = entry.weight;
        ++at_;
    }
    void finish() { begin_list(); }

private:
    void begin_list() {
        filters_.lists.push_back(static_cast<std::uint32_t>(filters_.runs.size()));
        // An empty list has a run, so that its sums are written.
        begin_run();
    }
    void begin_run() {
        filters_.runs.push_back(static_cast<std::uint32_t>(at_));
        magnitude_ = 0;
    }

    Filters& filters_;
    Word word_;
    std::size_t at_ = 0;
    std::uint64_t magnitude_ = 0;
};

}  // namespace

double density_of_words(const PackedMatrix& matrix, Word word) {
    const double weights = static_cast<double>(matrix.rows()) * static_cast<double>(matrix.cols());
    if (weights == 0.0) return 0.0;
    const double density = static_cast<double>(matrix.nonzeros()) / weights;
    return 1.0 - std::pow(1.0 - density, static_cast<double>(channels_of(word)));
}

std::optional<std::vector<float>> scales_for(const PackedMatrix& matrix, Word word,
                                             Precision precision) {
    std::vector<float> scales(matrix.rows(), 1.0F);
    if (word == Word::floats) return scales;
    const Limits limits = limits_of(word, precision);
    std::vector<float> weights;
    for (std::size_t r = 0; r < scales.size(); ++r) {
        weights.clear();
        for_each_weight(matrix.layout(), r,
                        [&](std::size_t, float weight) { weights.push_back(weight); });
        scales[r] = static_cast<float>(scale_of(weights, word, limits));
        if (scales[r] == 0.0F) return std::nullopt;
    }
    return scales;
}

Filters make_filters(const PackedMatrix& matrix, const Shape& shape, const Tiling& tiling,
                     Word word, std::span<const float> scales) {
    Filters filters;
    Collector collector(shape, tiling, word);
    std::vector<Collector::Entry>& entries = collector.entries();
    std::vector<std::size_t> ends;
    for (std::size_t r = 0; r < shape.filters; ++r) {
        for_each_weight(matrix.layout(), r, [&](std::size_t column, float weight) {
            collector.add(column, weight, scales[r]);
        });
        const double total = collector.finish();
        filters.units.push_back(1.0F / scales[r]);
        if (word == Word::quads) filters.totals.push_back(static_cast<float>(total));
        // In order of blocks; the slices of a kernel take turns from channel to channel.
        const std::size_t begin = ends.empty() ? 0 : ends.back();
        if (tiling.slices > 1) {
            std::stable_sort(entries.begin() + static_cast<std::ptrdiff_t>(begin), entries.end(),
                             [](const auto& a, const auto& b) { return a.block < b.block; });
        }
        ends.push_back(entries.size());
    }
    if (entries.size() > UINT32_MAX) {
        throw std::invalid_argument("convolution: the filters have more than 2^32 - 1 non-zeros");
    }
    filters.offsets = support::AlignedBuffer<std::uint16_t>(entries.size() + entry_slack);
    filters.weights = support::AlignedBuffer<std::uint32_t>(entries.size() + entry_slack);
    Writer writer(filters, word);
    std::vector<std::size_t> begins(shape.filters, 0);
    for (std::size_t r = 1; r < shape.filters; ++r) begins[r] = ends[r - 1];
    // Where the entries of the block end that is written, which those of the next follow.
    std::vector<std::size_t> nexts = begins;
    const std::size_t group_filters = shape.group_filters();
    std::vector<std::uint32_t> set;
    for (std::size_t first = 0; first < shape.filters; first += group_filters) {
        for (std::size_t block = 0; block < tiling.blocks(); ++block) {
            for (std::size_t r = first; r < first + group_filters; ++r) {
                begins[r] = nexts[r];
                while (nexts[r] < ends[r] && entries[nexts[r]].block == block) ++nexts[r];
            }
            for (std::size_t at = 0; at < group_filters; at += set_filters) {
                set.resize(std::min(set_filters, group_filters - at));
                std::iota(set.begin(), set.end(), static_cast<std::uint32_t>(first + at));
                std::ranges::stable_sort(set, {},
                                         [&](std::uint32_t r) { return nexts[r] - begins[r]; });
                for (const std::uint32_t r : set) {
                    writer.begin_list(r);
                    for (std::size_t i = begins[r]; i < nexts[r]; ++i) writer.add(entries[i]);
                }
            }
        }
    }
    writer.finish();
    return filters;
}

}  // namespace tersor::conv
