// The canonical sparse form: rows of (code, gap) entries with relative column indices.
// Source: Han et al., Deep Compression (arXiv 1510.00149), section 2, figure 2.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "tersor/status.hpp"

namespace tersor {

/// Codes of a pruned, weight-shared matrix. Code 0 means "pruned"; the codebook is kept elsewhere.
///
/// Each entry is a code and a gap, the number of zeros skipped before it, 0 to 2^index_bits - 1.
/// A longer run of zeros is bridged by fillers: an entry with code 0 and gap 2^index_bits - 1,
/// which advances 2^index_bits columns. Zeros after the last non-zero are not stored. By rows (flat
/// == false) gaps restart at each row and `row_lengths` holds the entries, fillers included, of
/// each row. Flat, gaps run over the whole tensor in row-major order, as in the paper, and
/// `row_lengths` is empty.
struct RelativeCsr {
    std::uint32_t rows = 0;
    std::uint32_t cols = 0;
    int index_bits = 4;  // 2 to 8
    bool flat = false;
    std::vector<std::uint8_t> codes;         // [entries]
    std::vector<std::uint8_t> gaps;          // [entries]
    std::vector<std::uint32_t> row_lengths;  // [rows], empty when flat

    friend bool operator==(const RelativeCsr&, const RelativeCsr&) = default;
};

/// The same, of memory that somebody else holds.
struct CsrView {
    std::uint32_t rows = 0;
    std::uint32_t cols = 0;
    int index_bits = 4;
    bool flat = false;
    std::span<const std::uint8_t> codes;
    std::span<const std::uint8_t> gaps;
    std::span<const std::uint32_t> row_lengths;

    CsrView() = default;
    CsrView(const RelativeCsr&& csr) = delete;  // what is viewed would be gone
    CsrView(const RelativeCsr& csr) noexcept    // whoever reads one may be handed the other
        : rows(csr.rows),
          cols(csr.cols),
          index_bits(csr.index_bits),
          flat(csr.flat),
          codes(csr.codes),
          gaps(csr.gaps),
          row_lengths(csr.row_lengths) {}
};

namespace csr {

inline constexpr int min_index_bits = 2;
inline constexpr int max_index_bits = 8;

/// `codes` is row-major [rows * cols]. Throws std::invalid_argument for an index width out of
/// range or a span of another size than rows * cols.
[[nodiscard]] RelativeCsr encode(std::span<const std::uint8_t> codes, std::uint32_t rows,
                                 std::uint32_t cols, int index_bits, bool flat = false);

/// The number of entries and fillers that `encode` would make, without making them.
struct EntryCount {
    std::size_t entries = 0;
    std::size_t fillers = 0;
};
[[nodiscard]] EntryCount count_entries(std::span<const std::uint8_t> codes, std::uint32_t rows,
                                       std::uint32_t cols, int index_bits, bool flat = false);

/// Checks every rule of the form; `count` is the number of non-zeros when ok and otherwise the
/// index of the faulty entry (the faulty row for size_mismatch). Everything else here and every
/// `pack` may be handed any bytes: they call this first.
[[nodiscard]] Result validate(const CsrView& csr);

/// The elements of the dense matrix as `count`. A few entries can announce a matrix of any size:
/// one of more than `believed` elements is too_large unless its entries and rows, each taken for as
/// many columns as one entry can advance, are as many. To be asked before memory is taken for
/// `decode`. By default an eighth of this machine's memory is believed, in bytes, so that what was
/// written on such a machine is read on it.
[[nodiscard]] Result dense_size(const CsrView& csr,
                                std::optional<std::size_t> believed = std::nullopt) noexcept;

/// Writes the row-major codes into `codes` [rows * cols] (every element; pruned ones as 0).
/// Throws std::invalid_argument when the span has another size. Result as of `validate`.
[[nodiscard]] Result decode(const RelativeCsr& csr, std::span<std::uint8_t> codes);

/// Entries with code 0.
[[nodiscard]] std::size_t filler_count(const CsrView& csr) noexcept;

}  // namespace csr
}  // namespace tersor
