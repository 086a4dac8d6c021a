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
constexpr double pair_gain = 0.99;
constexpr double pair_entropy = 2.0;

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
    unsigned wanted = 1;
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

/// Pairs of the symbols of bytes, whose histogram is `counts`, where they save enough.
bool pairs_pay(const std::uint8_t* symbols, std::size_t count, const Histogram& counts,
               huffman::BlockCode& code) {
    if (code.planes.last_symbol >= 16 || huffman::entropy(counts) >= pair_entropy) return false;
    code = huffman::choose_block_code({symbols, count}, counts);
    return code.pairs;
}

void choose_code(const Layout& layout, std::size_t f, const std::uint8_t* elements,
                 std::size_t count, const Histogram& histogram, FieldCode& field) {
    const std::uint64_t plain = layout.plain_bytes(f, count);
    const std::size_t distinct = distinct_symbols(histogram);
    if (distinct == 1) {
        field.kind = FieldKind::constant;
        const auto found =
            std::find_if(histogram.begin(), histogram.end(), [](auto n) { return n != 0; });
        field.constant = static_cast<std::uint8_t>(found - histogram.begin());
        return;
    }
    if (count < sliced_from) {
        field.lengths = huffman::code_lengths(histogram, huffman::max_stream_length);
        std::uint64_t bits = 0;
        for (std::size_t s = 0; s < histogram.size(); ++s) bits += histogram[s] * field.lengths[s];
        std::vector<std::uint8_t> table;
        huffman::append_lengths(field.lengths, table);
        if (table.size() + (bits + 7) / 8 < plain) field.kind = FieldKind::words;
        return;
    }
    const double most = coded_share * static_cast<double>(layout.bits(f));
    if (huffman::entropy(histogram) >= most) return;  // a code takes longer to find than to count
    field.code = {.planes = huffman::build_plane_code(histogram)};
    if (layout.width == 1 && pairs_pay(elements, count, histogram, field.code)) {
        field.kind = FieldKind::pairs;
        return;
    }
    const auto bits = static_cast<double>(huffman::coded_bits(field.code.planes, histogram));
    if (bits / 8 < coded_share * static_cast<double>(plain)) field.kind = FieldKind::sliced;
}

}  // namespace

Plan plan_fields(const Layout& layout, const std::uint8_t* elements, std::size_t count,
                 int threads) {
    Plan plan;
    for (const Layout& tried : layouts_to_try(layout, elements, count)) {
        const unsigned wanted = promising(tried, elements, count);
        Histograms histograms{};
        if (!count_all(tried, elements, count, wanted, threads, histograms)) continue;
        plan.layout = tried;
        for (std::size_t f = 0; f < layout.width; ++f) {
            if ((wanted >> f & 1U) == 0) continue;
            choose_code(tried, f, elements, count, histograms[f], plan.fields[f]);
        }
        break;
    }
    return plan;
}

}  // namespace tersor::lossless
