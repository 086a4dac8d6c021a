#include "lossless/encode_sample.hpp"

#include <algorithm>
#include <cmath>

#include "huffman/kernels.hpp"
#include "lossless/element.hpp"
#include "lossless/kernels.hpp"
#include "support/little_endian.hpp"

namespace tersor::lossless {
namespace {

constexpr std::size_t sample_chunks = 16;
constexpr std::size_t sample_chunk_elements = 1024;
/// A field of a block may gain where it has the same value twice so much more often than noise has,
/// as if a fifth of a bit were to be saved: some ten standard deviations of the sample. Less is not
/// worth the time of decoding it.
constexpr double promised_collisions = 1.25;
/// Bits of an element that joining one more bit of the mantissa must save, as it costs time.
constexpr double joining_gain = 0.025;

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

}  // namespace

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
            const int room = 256 >> joined;
            // From zero on, as zeros are more frequent than exponents beyond those of a sample.
            if (exponent < room) tried.push_back(next);
            next.base = static_cast<std::uint8_t>(std::max(0, std::min(exponent + 3, 256) - room));
            if (next.base != 0) tried.push_back(next);
        }
    }
    tried.push_back(layout);
    return tried;
}

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

namespace {

/// Fields of a run that have the same value twice more often than noise.
unsigned promising_in(const Layout& layout, const std::uint8_t* elements, std::size_t count,
                      unsigned asked) {
    Histograms histograms{};
    (void)count_run(layout, elements, count, asked, histograms);
    unsigned wanted = 0;
    for (std::size_t f = 1; f < layout.width; ++f) {
        std::uint64_t twice = 0;
        for (const std::uint64_t n : histograms[f]) twice += n * n;
        const auto noise =
            static_cast<double>(count * (count - 1) >> static_cast<unsigned>(layout.bits(f)));
        if (static_cast<double>(twice) > static_cast<double>(count) + promised_collisions * noise) {
            wanted |= 1U << f;
        }
    }
    return wanted & asked;
}

}  // namespace

std::vector<std::uint8_t> promising_fields(const Layout& layout, const std::uint8_t* elements,
                                           std::size_t count) {
    const auto all = static_cast<std::uint8_t>((1U << layout.width) - 1);
    const std::size_t blocks = ((count - 1) >> encoded_block_log2) + 1;
    if (count < sliced_from || layout.width == 1) return std::vector(blocks, all);
    std::vector<std::uint8_t> wanted(blocks);
    for (std::size_t b = 0; b < blocks; ++b) {
        const std::size_t first = b << encoded_block_log2;
        const std::size_t size = std::min(count - first, std::size_t{1} << encoded_block_log2);
        const std::size_t at = size / 2 < sample_chunk_elements ? 0 : size / 2;
        wanted[b] = static_cast<std::uint8_t>(
            1U | promising_in(layout, elements + (first + at) * layout.width,
                              std::min(size - at, sample_chunk_elements), all & ~1U));
    }
    return wanted;
}

}  // namespace tersor::lossless
