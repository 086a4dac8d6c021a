// Relative-index encoding. A run of zeros costs nothing until the next non-zero: the encoder walks
// the bitmap of non-zeros, so that its time goes with the entries and not with the zeros.
#include "tersor/csr.hpp"

#include <algorithm>
#include <bit>
#include <stdexcept>
#include <string>

#include "csr/kernels.hpp"
#include "support/checked_size.hpp"
#include "support/physical_memory.hpp"

namespace tersor::csr {
namespace {

void check_arguments(std::span<const std::uint8_t> codes, std::uint32_t rows, std::uint32_t cols,
                     int index_bits) {
    if (index_bits < min_index_bits || index_bits > max_index_bits) {
        throw std::invalid_argument("index_bits must be 2 to 8, not " + std::to_string(index_bits));
    }
    if (codes.size() != std::uint64_t{rows} * cols) {
        throw std::invalid_argument("codes have " + std::to_string(codes.size()) +
                                    " elements, expected " + std::to_string(rows) + " x " +
                                    std::to_string(cols));
    }
}

/// Calls `visit(position)` for each non-zero of `codes`, in order.
template <class Visit>
void for_each_nonzero(std::span<const std::uint8_t> codes, Bitmap bitmap, const Visit& visit) {
    constexpr std::size_t block = 4096;
    std::uint64_t bits[block / 64];
    for (std::size_t start = 0; start < codes.size(); start += block) {
        const std::size_t size = std::min(block, codes.size() - start);
        bitmap(codes.data() + start, size, bits);
        for (std::size_t word = 0; word * 64 < size; ++word) {
            for (std::uint64_t pending = bits[word]; pending != 0; pending &= pending - 1) {
                visit(start + word * 64 + static_cast<std::size_t>(std::countr_zero(pending)));
            }
        }
    }
}

/// Splits each run of zeros into fillers and a gap: `filler()` for each filler, then
/// `entry(position, gap)`.
template <class Filler, class Entry>
void for_each_entry(std::span<const std::uint8_t> codes, int index_bits, Bitmap bitmap,
                    const Filler& filler, const Entry& entry) {
    const std::size_t span = std::size_t{1} << index_bits;
    std::size_t next = 0;  // the first position not yet covered
    for_each_nonzero(codes, bitmap, [&](std::size_t position) {
        std::size_t zeros = position - next;
        for (; zeros >= span; zeros -= span) filler();
        entry(position, static_cast<std::uint8_t>(zeros));
        next = position + 1;
    });
}

/// The sequences that gaps run over: each row, or the whole tensor.
template <class Visit>
void for_each_sequence(std::span<const std::uint8_t> codes, std::uint32_t rows, std::uint32_t cols,
                       bool flat, const Visit& visit) {
    if (flat) {
        visit(codes);
        return;
    }
    for (std::size_t row = 0; row < rows; ++row) visit(codes.subspan(row * cols, cols));
}

}  // namespace

RelativeCsr encode(std::span<const std::uint8_t> codes, std::uint32_t rows, std::uint32_t cols,
                   int index_bits, bool flat) {
    check_arguments(codes, rows, cols, index_bits);
    RelativeCsr csr{rows, cols, index_bits, flat, {}, {}, {}};
    const Bitmap bitmap = kernels().nonzero_bitmap;
    const auto filler_gap = static_cast<std::uint8_t>((1 << index_bits) - 1);
    for_each_sequence(codes, rows, cols, flat, [&](std::span<const std::uint8_t> sequence) {
        const std::size_t before = csr.codes.size();
        for_each_entry(
            sequence, index_bits, bitmap,
            [&] {
                csr.codes.push_back(0);
                csr.gaps.push_back(filler_gap);
            },
            [&](std::size_t position, std::uint8_t gap) {
                csr.codes.push_back(sequence[position]);
                csr.gaps.push_back(gap);
            });
        if (!flat) csr.row_lengths.push_back(static_cast<std::uint32_t>(csr.codes.size() - before));
    });
    return csr;
}

EntryCount count_entries(std::span<const std::uint8_t> codes, std::uint32_t rows,
                         std::uint32_t cols, int index_bits, bool flat) {
    check_arguments(codes, rows, cols, index_bits);
    EntryCount count;
    const Bitmap bitmap = kernels().nonzero_bitmap;
    for_each_sequence(codes, rows, cols, flat, [&](std::span<const std::uint8_t> sequence) {
        for_each_entry(
            sequence, index_bits, bitmap, [&] { ++count.fillers; },
            [&](std::size_t, std::uint8_t) { ++count.entries; });
    });
    count.entries += count.fillers;
    return count;
}

Result validate(const CsrView& csr) {
    const std::size_t entries = csr.codes.size();
    if (csr.index_bits < min_index_bits || csr.index_bits > max_index_bits) {
        return {Status::bad_header, 0};
    }
    if (csr.gaps.size() != entries) return {Status::size_mismatch, 0};
    if (csr.row_lengths.size() != (csr.flat ? 0 : csr.rows)) return {Status::size_mismatch, 0};

    const std::uint64_t advance_of_filler = std::uint64_t{1} << csr.index_bits;
    const std::uint64_t sequence_length =
        csr.flat ? std::uint64_t{csr.rows} * csr.cols : std::uint64_t{csr.cols};
    const std::size_t sequences = csr.flat ? 1 : csr.rows;
    const ValidateFast validate_fast = kernels().validate_fast;
    std::size_t nonzeros = 0;
    std::size_t at = 0;
    for (std::size_t s = 0; s < sequences; ++s) {
        const std::size_t length = csr.flat ? entries : csr.row_lengths[s];
        if (length > entries - at) return {Status::size_mismatch, s};
        const FastVerdict all = validate_fast(csr.codes.data() + at, csr.gaps.data() + at, length,
                                              csr.index_bits, sequence_length);
        if (all.good) {
            nonzeros += all.nonzeros;
            at += length;
            continue;
        }
        std::uint64_t next = 0;
        for (const std::size_t end = at + length; at < end; ++at) {
            const std::uint64_t advance = std::uint64_t{csr.gaps[at]} + 1;
            if (advance > advance_of_filler) return {Status::gap_past_end, at};
            const bool filler = csr.codes[at] == 0;
            // A filler bridges to a later entry, and always by the full width.
            if (filler && (advance != advance_of_filler || at + 1 == end)) {
                return {Status::bad_filler, at};
            }
            if (advance > sequence_length - next) return {Status::gap_past_end, at};
            next += advance;
            nonzeros += filler ? 0 : 1;
        }
    }
    if (at != entries) return {Status::size_mismatch, sequences};
    return {Status::ok, nonzeros};
}

Result dense_size(const CsrView& csr, std::optional<std::size_t> believed) noexcept {
    constexpr std::uint64_t widest_advance = std::uint64_t{1} << max_index_bits;
    const std::optional<std::size_t> size = support::checked_product(csr.rows, csr.cols);
    const std::uint64_t backed = widest_advance * (csr.codes.size() + csr.row_lengths.size());
    const std::uint64_t most = believed.value_or(support::physical_memory() / 8);
    if (!size.has_value() || *size > std::max(most, backed)) return {Status::too_large, 0};
    return {Status::ok, *size};
}

Result decode(const RelativeCsr& csr, std::span<std::uint8_t> codes) {
    if (codes.size() != std::uint64_t{csr.rows} * csr.cols) {
        throw std::invalid_argument("the output has " + std::to_string(codes.size()) +
                                    " elements, expected " + std::to_string(csr.rows) + " x " +
                                    std::to_string(csr.cols));
    }
    const Result result = validate(csr);
    if (!result.ok()) return result;
    std::fill(codes.begin(), codes.end(), std::uint8_t{0});
    std::size_t at = 0;
    const std::size_t sequences = csr.flat ? 1 : csr.rows;
    for (std::size_t s = 0; s < sequences; ++s) {
        std::size_t position = s * csr.cols;
        const std::size_t length = csr.flat ? csr.codes.size() : csr.row_lengths[s];
        for (const std::size_t end = at + length; at < end; ++at) {
            position += csr.gaps[at];
            codes[position++] = csr.codes[at];
        }
    }
    return result;
}

}  // namespace tersor::csr
