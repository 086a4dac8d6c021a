// A sample of the elements is counted to choose codes before they are encoded, chunk by chunk in
// the first cache; all of them in short tensors, in fields that only some blocks code, and where a
// sample was wrong.
#include "lossless/encode_plan.hpp"

#include <algorithm>
#include <numeric>
#include <vector>

#include "tersor/isa.hpp"
#include "tersor/parallel.hpp"

namespace tersor::lossless {
namespace {

using huffman::Histogram;

/// Share of a field that coding it must save.
constexpr double coded_share = 0.995;
constexpr double pair_entropy = 2.0;
constexpr std::ptrdiff_t pair_alphabet = 16;
/// Elements that may have a code of their own; from how many on a sample is counted, and its size.
constexpr std::size_t stretch_elements = std::size_t{1} << 20;
constexpr std::size_t stretch_blocks = stretch_elements >> encoded_block_log2;
constexpr std::size_t sampled_from = std::size_t{1} << 17;
constexpr std::size_t sampled_elements = std::size_t{1} << 16;
/// Exponents that get words beside those of the sample.
constexpr std::size_t exponents_below = 8;
constexpr std::size_t exponents_above = 2;
/// What another code than its own may cost a stretch, as a share of its entropy.
constexpr double reuse_loss = 0.003;

std::size_t distinct_symbols(const Histogram& histogram) noexcept {
    return static_cast<std::size_t>(
        std::count_if(histogram.begin(), histogram.end(), [](auto n) { return n != 0; }));
}

/// Counts of blocks that may share a code.
struct Stretch {
    Histograms counts{};
    bool fits = true;
};

/// Counts a stretch: field 0 of all its elements where `exact`, else of a sample of them; of the
/// other fields the blocks that want it.
void count_stretch(const Layout& layout, const std::uint8_t* elements, std::size_t count,
                   bool exact, const std::uint8_t* wanted, Stretch& stretch) {
    const std::size_t run = exact ? count : chunk_elements;
    const std::size_t step =
        exact ? count : run * std::max<std::size_t>(1, count / sampled_elements);
    for (std::size_t at = 0; at < count; at += step) {
        stretch.fits &= count_run(layout, elements + at * layout.width, std::min(run, count - at),
                                  1, stretch.counts);
    }
    constexpr std::size_t block = std::size_t{1} << encoded_block_log2;
    for (std::size_t at = 0; at < count; at += block, ++wanted) {
        if (*wanted == 1) continue;
        stretch.fits &= count_run(layout, elements + at * layout.width, std::min(block, count - at),
                                  *wanted & ~1U, stretch.counts);
    }
}

std::vector<Stretch> count_stretches(const Plan& plan, const std::uint8_t* elements,
                                     std::size_t count, bool exact, int threads) {
    std::vector<Stretch> stretches((count - 1) / stretch_elements + 1);
    parallel_for(stretches.size(), 1, threads, [&](std::size_t begin, std::size_t end) {
        for (std::size_t i = begin; i < end; ++i) {
            const std::size_t first = i * stretch_elements;
            count_stretch(plan.layout, elements + first * plan.layout.width,
                          std::min(stretch_elements, count - first), exact,
                          plan.wanted.data() + i * stretch_blocks, stretches[i]);
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
    const std::size_t below = exponents_below << joined;
    const std::size_t above = exponents_above << joined;
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

/// A code of field f for each stretch that the one before would not serve as well; `covered` where
/// they are from a sample.
void choose_codes(std::vector<Stretch>& stretches, std::size_t f, int joined,
                  std::vector<BlocksCode>& codes, std::vector<Covered>* covered) {
    Current current;
    for (std::size_t i = 0; i < stretches.size(); ++i) {
        Histogram& counts = stretches[i].counts[f];
        if (distinct_symbols(counts) == 0) continue;  // no block wants it
        Covered here;
        if (covered != nullptr) here = cover(counts, joined);
        if (distinct_symbols(counts) < 2) ++counts[counts[0] != 0 ? 1 : 0];  // a code has two words
        if (!codes.empty() && serves(codes.back().code.planes, current, counts)) continue;
        const std::size_t first = codes.empty() ? 0 : i * stretch_blocks;
        codes.push_back({first, {.planes = huffman::build_bit_sliced_code(counts, true)}});
        if (covered != nullptr) covered->push_back(here);
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

/// A field; false where a sample does not tell.
bool choose_field(std::size_t f, const std::uint8_t* elements, std::size_t count,
                  std::vector<Stretch>& stretches, bool exact, Plan& plan) {
    FieldCode& field = plan.fields[f];
    const Layout& layout = plan.layout;
    Histogram total{};
    for (const Stretch& stretch : stretches) {
        for (std::size_t s = 0; s < total.size(); ++s) total[s] += stretch.counts[f][s];
    }
    const auto counted = std::accumulate(total.begin(), total.end(), std::uint64_t{0});
    if (counted == 0) return true;  // no block wants it
    if (distinct_symbols(total) == 1 && f == 0 && !exact) return false;
    if (counted == count && choose_constant(total, field)) return true;
    if (count < sliced_from) {
        choose_words(layout.plain_bytes(f, count), total, field);
        return true;
    }
    if (!promises(layout, f, total)) return true;
    if (layout.width == 1 && choose_pairs(elements, count, total, field)) return true;
    field.kind = FieldKind::sliced;
    const bool sampled = f == 0 && !exact;
    choose_codes(stretches, f, layout.joined, field.codes, sampled ? &plan.covered : nullptr);
    return true;
}

}  // namespace

Plan plan_fields(const Layout& layout, const std::uint8_t* elements, std::size_t count, bool exact,
                 int threads) {
    exact |= layout.width == 1 || count < sampled_from;
    for (const Layout& tried : layouts_to_try(layout, elements, count)) {
        Plan plan;
        plan.layout = tried;
        plan.wanted = promising_fields(tried, elements, count);
        std::vector<Stretch> stretches = count_stretches(plan, elements, count, exact, threads);
        if (!std::all_of(stretches.begin(), stretches.end(),
                         [](const auto& s) { return s.fits; })) {
            continue;
        }
        bool known = true;
        for (std::size_t f = 0; known && f < layout.width; ++f) {
            known = choose_field(f, elements, count, stretches, exact, plan);
        }
        if (known) return plan;
    }
    return plan_fields(layout, elements, count, true, threads);
}

}  // namespace tersor::lossless
