// A tensor is read once to choose its codes, chunk by chunk in the first cache, and once more to be
// encoded. Which fields may gain, and how many bits of the mantissa, a sample tells.
#include "lossless/encode_plan.hpp"

#include <algorithm>
#include <cmath>
#include <mutex>
#include <numeric>
#include <vector>

#include "huffman/kernels.hpp"
#include "lossless/element.hpp"
#include "lossless/kernels.hpp"
#include "support/little_endian.hpp"
#include "tersor/parallel.hpp"

namespace tersor::lossless {
namespace {

using huffman::Histogram;
using Histograms = std::array<Histogram, max_fields>;

constexpr std::size_t chunk_elements = 4096;
constexpr std::size_t sample_chunks = 32;
constexpr std::size_t sample_chunk_elements = 2048;
/// Elements from which on blocks of the bit-sliced code are taken.
constexpr std::size_t sliced_from = 16384;
/// A field that is to be counted must promise to save so many bits an element: what stays random
/// is below, and 64K elements estimate it to a hundredth.
constexpr double promised_bits = 0.06;
/// Bits of an element that joining one more bit of the mantissa must save, as it costs time.
constexpr double joining_gain = 0.025;
/// Share of a field that coding it must save.
constexpr double coded_share = 0.995;
constexpr double pair_entropy = 2.0;
constexpr std::ptrdiff_t pair_alphabet = 16;
/// Elements that may have a code of their own; from how many on, and of how many one, a sample is
/// counted.
constexpr std::size_t stretch_elements = std::size_t{1} << 20;
constexpr std::size_t sampled_from = std::size_t{1} << 20;
constexpr std::size_t one_in = 16;
/// Exponents that get words beside those of the sample.
constexpr int exponents_below = 8;
constexpr int exponents_above = 2;
/// What another code than its own may cost a stretch, as a share of its entropy.
constexpr double reuse_loss = 0.003;

constexpr int leading_bits = 8 + max_joined;
using Leading = std::array<std::uint32_t, std::size_t{1} << leading_bits>;

/// Calls `function(first, count)` for the runs of a sample: all elements where they are few.
template <class Function>
void for_sample(std::size_t count, const Function& function) {
    constexpr std::size_t whole = sample_chunks * sample_chunk_elements;
    if (count <= whole) {
        for (std::size_t at = 0; at < count; at += sample_chunk_elements) {
            function(at, std::min(sample_chunk_elements, count - at));
        }
        return;
    }
    // The first and the last run are at the ends; runs begin where cutting needs no care.
    const std::size_t stride = (count - sample_chunk_elements) / (sample_chunks - 1);
    for (std::size_t c = 0; c < sample_chunks; ++c) function(c * stride, sample_chunk_elements);
}

/// Exponents and the first bits of mantissas in the sample.
template <std::unsigned_integral T>
Leading count_leading(const std::uint8_t* elements, std::size_t count) {
    Leading leading{};
    for_sample(count, [&](std::size_t first, std::size_t size) {
        for (std::size_t i = first; i < first + size; ++i) {
            const T x = support::load_little_endian<T>(elements + i * sizeof(T));
            ++leading[forward<T, Transform::rotate>(x) >> (bits_of<T> - leading_bits)];
        }
    });
    return leading;
}

/// Bits an element that a code of the exponent and `joined` more bits needs, the others of the
/// mantissa's first bits stored as they are.
double leading_cost(const Leading& leading, int joined) {
    const auto dropped = static_cast<std::size_t>(max_joined - joined);
    double total = 0.0, sum = 0.0;
    for (std::size_t i = 0; i < leading.size(); i += std::size_t{1} << dropped) {
        std::uint64_t n = 0;
        for (std::size_t k = 0; k < std::size_t{1} << dropped; ++k) n += leading[i + k];
        if (n == 0) continue;
        const auto weight = static_cast<double>(n);
        total += weight;
        sum += weight * std::log2(weight);
    }
    return std::log2(total) - sum / total + static_cast<double>(dropped);
}

/// Joins as many bits as pay, and makes room for them below the largest exponents.
std::vector<Layout> layouts_to_try(const Layout& layout, const std::uint8_t* elements,
                                   std::size_t count) {
    std::vector<Layout> tried;
    // In a short tensor a larger table costs more than joining gains.
    if (layout.joins && count >= sliced_from) {
        const Leading leading = layout.width == 2 ? count_leading<std::uint16_t>(elements, count)
                                                  : count_leading<std::uint32_t>(elements, count);
        std::size_t largest = leading.size() - 1;
        while (leading[largest] == 0) --largest;
        const auto exponent = static_cast<int>(largest >> max_joined);
        int joined = 0;
        for (int j = 1; j <= max_joined; ++j) {
            if (leading_cost(leading, j) < leading_cost(leading, joined) - joining_gain) joined = j;
        }
        for (; joined > 0; --joined) {
            Layout next = layout;
            next.joined = joined;
            next.base = static_cast<std::uint8_t>(
                std::max(0, std::min(exponent + 3, 256) - (256 >> joined)));
            tried.push_back(next);
        }
    }
    tried.push_back(layout);
    return tried;
}

/// Counts fields of a run; false where its exponents leave no room.
bool count_run(const Layout& layout, const std::uint8_t* elements, std::size_t count,
               unsigned wanted, Histograms& histograms) {
    const auto& prefix = huffman::encode_kernels(isa_in_use());
    if (layout.width == 1) {
        prefix.count_symbols(elements, count, histograms[0].data());
        return true;
    }
    const auto& kernels = encode_kernels(isa_in_use());
    std::array<std::array<std::uint8_t, chunk_elements>, max_fields> planes;
    FieldsOut fields;
    for (std::size_t f = 0; f < layout.width; ++f) {
        if ((wanted >> f & 1U) != 0) fields.bytes[f] = planes[f].data();
    }
    for (std::size_t at = 0; at < count; at += chunk_elements) {
        const std::size_t size = std::min(chunk_elements, count - at);
        if (!kernels.cut_fields(layout, elements + at * layout.width, size, fields)) return false;
        for (std::size_t f = 0; f < layout.width; ++f) {
            if ((wanted >> f & 1U) == 0) continue;
            prefix.count_symbols(planes[f].data(), size, histograms[f].data());
        }
    }
    return true;
}

/// Counts the wanted fields of all elements.
bool count_all(const Layout& layout, const std::uint8_t* elements, std::size_t count,
               unsigned wanted, int threads, Histograms& histograms) {
    std::mutex mutex;
    bool fits = true;
    parallel_for(count, chunk_elements * 16, threads, [&](std::size_t begin, std::size_t end) {
        Histograms own{};
        const bool good =
            count_run(layout, elements + begin * layout.width, end - begin, wanted, own);
        const std::scoped_lock lock(mutex);
        fits &= good;
        for (std::size_t f = 0; f < layout.width; ++f) {
            for (std::size_t s = 0; s < own[f].size(); ++s) histograms[f][s] += own[f][s];
        }
    });
    return fits;
}

/// Which fields after the first may gain: those whose entropy in the sample is not that of noise.
unsigned promising(const Layout& layout, const std::uint8_t* elements, std::size_t count) {
    Histograms histograms{};
    const unsigned all = (1U << layout.width) - 1;
    std::size_t sampled = 0;
    bool fits = true;
    for_sample(count, [&](std::size_t first, std::size_t size) {
        sampled += size;
        fits &= count_run(layout, elements + first * layout.width, size, all, histograms);
    });
    unsigned wanted = 0;
    for (std::size_t f = 1; fits && f < layout.width; ++f) {
        const auto values = static_cast<double>(std::size_t{1} << layout.bits(f));
        // The entropy of a sample is below that of what it is drawn from (Miller, 1955).
        const double bias = (values - 1) / (2 * std::log(2.0) * static_cast<double>(sampled));
        if (huffman::entropy(histograms[f]) + bias < layout.bits(f) - promised_bits) {
            wanted |= 1U << f;
        }
    }
    return wanted;
}

std::size_t distinct_symbols(const Histogram& histogram) noexcept {
    return static_cast<std::size_t>(
        std::count_if(histogram.begin(), histogram.end(), [](auto n) { return n != 0; }));
}

/// Field 0 of a stretch of blocks that may share a code.
struct Stretch {
    Histogram counts{};
    bool fits = true;
};

/// Counts field 0 of each stretch: of all its elements where `exact`, else of a sample of them.
std::vector<Stretch> count_stretches(const Layout& layout, const std::uint8_t* elements,
                                     std::size_t count, bool exact, int threads) {
    std::vector<Stretch> stretches((count - 1) / stretch_elements + 1);
    parallel_for(stretches.size(), 1, threads, [&](std::size_t begin, std::size_t end) {
        for (std::size_t i = begin; i < end; ++i) {
            const std::size_t first = i * stretch_elements;
            const std::size_t size = std::min(stretch_elements, count - first);
            Histograms own{};
            const std::size_t run = exact ? size : std::min(size, chunk_elements);
            const std::size_t step = exact ? size : run * one_in;
            for (std::size_t at = 0; at < size; at += step) {
                const std::uint8_t* from = elements + (first + at) * layout.width;
                stretches[i].fits &= count_run(layout, from, std::min(run, size - at), 1, own);
            }
            stretches[i].counts = own[0];
        }
    });
    return stretches;
}

/// Gives words to what a sample may lack: the exponents around those that it has, and zero.
Covered cover(Histogram& counts, int joined) noexcept {
    std::size_t from = 1;
    while (from < counts.size() - 1 && counts[from] == 0) ++from;
    std::size_t to = counts.size() - 1;
    while (to > from && counts[to] == 0) --to;
    const auto below = static_cast<std::size_t>(exponents_below << joined);
    const auto above = static_cast<std::size_t>(exponents_above << joined);
    from = from > below ? from - below : 1;
    to = std::min(to + above, counts.size() - 1);
    counts[0] = std::max<std::uint64_t>(counts[0], 1);
    for (std::size_t s = from; s <= to; ++s) counts[s] = std::max<std::uint64_t>(counts[s], 1);
    return {static_cast<std::uint8_t>(from), static_cast<std::uint8_t>(to)};
}

/// A code and what is needed to tell whether it serves the next stretch too.
struct Current {
    Histogram built_for{};
    double excess = 0.0;  // of its bits over the entropy, as a factor
};

/// Whether the code serves these counts nearly as well as those that it was built for.
bool serves(const huffman::BitSlicedCode& code, const Current& current, const Histogram& counts) {
    for (std::size_t s = 0; s < counts.size(); ++s) {
        if (counts[s] != 0 && current.built_for[s] == 0) return false;
    }
    const double least =
        huffman::entropy(counts) *
        static_cast<double>(std::accumulate(counts.begin(), counts.end(), std::uint64_t{0}));
    return static_cast<double>(huffman::coded_bits(code, counts)) <=
           least * (current.excess + reuse_loss);
}

/// A code for each stretch that the one before would not serve as well.
void choose_codes(std::vector<Stretch>& stretches, bool exact, Plan& plan) {
    std::vector<BlocksCode>& codes = plan.fields[0].codes;
    Current current;
    for (std::size_t i = 0; i < stretches.size(); ++i) {
        Histogram& counts = stretches[i].counts;
        const Covered covered = exact ? Covered{} : cover(counts, plan.layout.joined);
        if (distinct_symbols(counts) < 2) ++counts[counts[0] != 0 ? 1 : 0];  // a code has two words
        if (!codes.empty() && serves(codes.back().code.planes, current, counts)) continue;
        const std::size_t first = i * (stretch_elements >> encoded_block_log2);
        codes.push_back({first, {.planes = huffman::build_bit_sliced_code(counts, true)}});
        if (!exact) plan.covered.push_back(covered);
        const double least =
            huffman::entropy(counts) *
            static_cast<double>(std::accumulate(counts.begin(), counts.end(), std::uint64_t{0}));
        const auto bits =
            static_cast<double>(huffman::coded_bits(codes.back().code.planes, counts));
        current = {counts, bits / least};
    }
}

bool choose_constant(const Histogram& histogram, FieldCode& field) {
    if (distinct_symbols(histogram) != 1) return false;
    field.kind = FieldKind::constant;
    const auto found =
        std::find_if(histogram.begin(), histogram.end(), [](auto n) { return n != 0; });
    field.constant = static_cast<std::uint8_t>(found - histogram.begin());
    return true;
}

void choose_words(std::uint64_t plain, const Histogram& histogram, FieldCode& field) {
    field.lengths = huffman::code_lengths(histogram, huffman::max_stream_length);
    std::uint64_t bits = 0;
    for (std::size_t s = 0; s < histogram.size(); ++s) bits += histogram[s] * field.lengths[s];
    std::vector<std::uint8_t> table;
    huffman::append_lengths(field.lengths, table);
    if (table.size() + (bits + 7) / 8 < plain) field.kind = FieldKind::words;
}

/// Whether a code of these counts would save enough: one takes longer to find than to count.
bool promises(const Layout& layout, std::size_t f, const Histogram& histogram) {
    return huffman::entropy(histogram) < coded_share * layout.bits(f);
}

/// A field of all elements but the first.
void choose_code(const Layout& layout, std::size_t f, std::size_t count, const Histogram& histogram,
                 FieldCode& field) {
    if (choose_constant(histogram, field)) return;
    const std::uint64_t plain = layout.plain_bytes(f, count);
    if (count < sliced_from) {
        choose_words(plain, histogram, field);
        return;
    }
    if (!promises(layout, f, histogram)) return;
    field.codes = {{0, {.planes = huffman::build_bit_sliced_code(histogram, true)}}};
    const auto bits =
        static_cast<double>(huffman::coded_bits(field.codes[0].code.planes, histogram));
    if (bits / 8 < coded_share * static_cast<double>(plain)) field.kind = FieldKind::sliced;
}

/// Pairs of the symbols of bytes where they save enough.
bool choose_pairs(const std::uint8_t* symbols, std::size_t count, const Histogram& counts,
                  FieldCode& field) {
    const bool few =
        std::all_of(counts.begin() + pair_alphabet, counts.end(), [](auto n) { return n == 0; });
    if (!few || huffman::entropy(counts) >= pair_entropy) return false;
    field.codes = {{0, huffman::choose_block_code({symbols, count}, counts)}};
    field.kind = field.codes[0].code.pairs ? FieldKind::pairs : FieldKind::sliced;
    return true;
}

/// Field 0; false where a sample does not tell.
bool choose_first(const Layout& layout, const std::uint8_t* elements, std::size_t count,
                  std::vector<Stretch>& stretches, bool exact, Plan& plan) {
    FieldCode& field = plan.fields[0];
    Histogram total{};
    for (const Stretch& stretch : stretches) {
        for (std::size_t s = 0; s < total.size(); ++s) total[s] += stretch.counts[s];
    }
    if (!exact && distinct_symbols(total) == 1) return false;
    if (choose_constant(total, field)) return true;
    if (count < sliced_from) {
        choose_words(layout.plain_bytes(0, count), total, field);
        return true;
    }
    if (!promises(layout, 0, total)) return true;
    if (layout.width == 1 && choose_pairs(elements, count, total, field)) return true;
    field.kind = FieldKind::sliced;
    choose_codes(stretches, exact, plan);
    return true;
}

}  // namespace

Plan plan_fields(const Layout& layout, const std::uint8_t* elements, std::size_t count, bool exact,
                 int threads) {
    exact |= layout.width == 1 || count < sampled_from;
    for (const Layout& tried : layouts_to_try(layout, elements, count)) {
        std::vector<Stretch> stretches = count_stretches(tried, elements, count, exact, threads);
        if (!std::all_of(stretches.begin(), stretches.end(),
                         [](const auto& s) { return s.fits; })) {
            continue;
        }
        Plan plan;
        plan.layout = tried;
        if (!choose_first(tried, elements, count, stretches, exact, plan)) break;
        const unsigned wanted = promising(tried, elements, count);
        if (wanted == 0) return plan;
        Histograms histograms{};
        if (!count_all(tried, elements, count, wanted, threads, histograms)) continue;
        for (std::size_t f = 1; f < layout.width; ++f) {
            if ((wanted >> f & 1U) == 0) continue;
            choose_code(tried, f, count, histograms[f], plan.fields[f]);
        }
        return plan;
    }
    return plan_fields(layout, elements, count, true, threads);
}

}  // namespace tersor::lossless
