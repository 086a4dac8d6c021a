// Matrices of codes whose rows are decoded one at a time: embeddings.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>

#include "tersor/csr.hpp"
#include "tersor/epilogue.hpp"
#include "tersor/isa.hpp"
#include "tersor/status.hpp"

namespace tersor {

/// Rows of codes in as few bits as their codebook needs, 1 to 8, pruned weights among them as code
/// 0, and a factor for each row where there are any. Never saved, rebuilt on load. Any number of
/// threads may read one at once.
class PackedRows {
public:
    struct Layout;  // defined in cpp/src/rows/layout.hpp

    /// Without rows or columns, as one is that was moved from.
    PackedRows() noexcept;
    explicit PackedRows(std::unique_ptr<const Layout> layout) noexcept;
    PackedRows(PackedRows&&) noexcept;
    PackedRows& operator=(PackedRows&&) noexcept;
    ~PackedRows();

    [[nodiscard]] std::uint32_t rows() const noexcept;
    [[nodiscard]] std::uint32_t cols() const noexcept;
    /// Bits of a code.
    [[nodiscard]] int bits() const noexcept;
    /// Values of the codebook, the zero of code 0 included.
    [[nodiscard]] std::size_t codebook_size() const noexcept;
    /// All memory held, in bytes, tables and padding included.
    [[nodiscard]] std::size_t nbytes() const noexcept;
    [[nodiscard]] Isa isa() const noexcept;

    /// The same codes and factors with other values. The codes are shared with these rows and not
    /// copied. Throws std::invalid_argument where the codebook is not of this one's size, does not
    /// begin with 0 or holds what is not finite.
    [[nodiscard]] PackedRows with_codebook(std::span<const float> codebook) const;

    [[nodiscard]] const Layout& layout() const noexcept;

private:
    std::unique_ptr<const Layout> layout_;  // none of an empty one
};

namespace rows {

/// Packs the rows of a matrix for the instruction set in use and validates everything.
/// `codebook[code]` is the value of a code; `codebook[0]` must be 0. `factors` holds one for each
/// row, or nothing. Errors: those of csr::validate, code_past_codebook, not_finite; too_large where
/// the entries announce more than csr::dense_size believes. Throws std::invalid_argument when a
/// span has the wrong size.
[[nodiscard]] Result pack(const RelativeCsr& csr, std::span<const float> codebook,
                          PackedRows& packed, std::span<const float> factors = {}, int threads = 1);

/// Writes the rows of these indices into `out` [indices, cols]: factor * codebook[code], rounded
/// once more where `out` is bfloat16. Nothing is written, and the position of the first one is
/// returned, where an index is negative or not less than the number of rows. Throws
/// std::invalid_argument when `out` has the wrong size.
[[nodiscard]] std::optional<std::size_t> look_up(const PackedRows& packed,
                                                 std::span<const std::int64_t> indices,
                                                 FloatSpan out, int threads = 1);

}  // namespace rows
}  // namespace tersor
