// The packed layout sell: a variant of SELL-C-sigma (Kreutzer et al. 2014, "A unified sparse matrix
// data format", arXiv 1307.6209) with chunks of C = 16 rows, called slices. Rows are sorted by how
// fast they advance through the columns instead of by length, and the 16 rows of a slice advance
// together: a step holds up to four entries of each row, all within one window of 128 or 64 columns
// (AVX2, NEON: 64). The activations of a window fit into one to four registers for each limb, so a
// look-up inside registers replaces the gather.
//
//   pair of steps   64 bytes        64 bytes         64 bytes (codebook of <= 16 values)
//                   columns, step 0 columns, step 1  codes: low half step 0, high half step 1
//                                                    or 64 + 64 bytes: codes of step 0, of step 1
//   slot 4 r + k    entry k of row r: its column less the first of the window, and its code;
//                   unused slots hold code 0, whose weight is 0
//   advances        a byte a step: how far its window moves, in grains of 32 or 16 columns
//   slice_starts    pairs before each slice;  row_order: which row is row r of slice s
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "spmm/csr16/layout.hpp"
#include "spmm/dense_codes/integers.hpp"
#include "spmm/dense_codes/layout.hpp"
#include "spmm/fixed_point.hpp"
#include "support/aligned_buffer.hpp"
#include "tersor/isa.hpp"

namespace tersor::spmm {

inline constexpr std::size_t slice_rows = 16;
inline constexpr std::size_t step_slots = 64;
inline constexpr std::size_t row_slots = step_slots / slice_rows;  // of a row in a step

/// What differs between instruction sets.
struct SellShape {
    std::uint32_t window_columns;  // whose activations the kernel holds in registers
    std::uint32_t window_grain;    // windows start at multiples of it
    int limb_bits;                 // of x and of the weights
    std::size_t max_codes;         // values in a codebook
    int planes_per_limb = 1;       // of x; a second one holds differences
    bool dense = false;            // no columns are stored: see dense_codes/layout.hpp

    friend constexpr bool operator==(const SellShape&, const SellShape&) = default;
};

inline constexpr SellShape no_sell{0, 1, 8, 0};
inline constexpr SellShape sell_avx2{64, 16, 7, 16, 2};
inline constexpr SellShape sell_avx512{128, 32, 8, 256};
inline constexpr SellShape narrow_sell_avx512{64, 16, 8, 16};
inline constexpr SellShape sell_neon{64, 16, 7, 64};

/// The shape of dense slices on a level.
[[nodiscard]] constexpr SellShape dense_shape(const SellShape& usual) noexcept {
    return {64, 16, usual.limb_bits, usual.max_codes, usual.planes_per_limb, true};
}

[[nodiscard]] constexpr SellShape sell_shape(Isa isa) noexcept {
    switch (isa) {
        case Isa::avx512:
        case Isa::amx: return sell_avx512;
        case Isa::avx2: return sell_avx2;
        case Isa::neon: return sell_neon;
        case Isa::scalar: break;
    }
    return no_sell;
}

/// Non-zeros of a layout that a core's second cache holds: reading it is not what takes the time.
inline constexpr std::size_t cached_nonzeros = 640'000;

/// The shape for a matrix of `weights` elements, given that of its instruction set. Narrow windows
/// take one shuffle less for each limb of x, and more slots: 6 % more at 25 % density, 9 % at 20
/// %, 19 % at 10 %. In the second cache that pays from about 8 %, elsewhere where the slots are
/// few. From half of the weights on, codes of all columns take less room than columns and codes of
/// some; and from a third on where four of them share a byte. `integers`: the codebook's values are
/// multiples of a step.
[[nodiscard]] constexpr SellShape shape_for(const SellShape& usual, std::size_t codes,
                                            std::size_t nonzeros, std::uint64_t weights,
                                            bool integers) noexcept {
    const std::uint64_t least_dense = codes <= 4 ? weights / 3 : weights / 2;
    if (nonzeros >= least_dense &&
        (integers || usual == sell_avx512 || (usual == sell_avx2 && codes <= usual.max_codes))) {
        return dense_shape(usual);
    }
    if (usual != sell_avx512 || codes > narrow_sell_avx512.max_codes) return usual;
    const std::uint64_t least = nonzeros <= cached_nonzeros ? weights / 11 : weights / 5;
    return nonzeros >= least ? narrow_sell_avx512 : usual;
}

/// How far a window moves in one step, in grains: a row without entries for longer than that takes
/// empty steps.
inline constexpr std::uint32_t max_advance = 255;

/// Columns that an `Entry` can name, and a window behind each.
inline constexpr std::uint64_t max_sell_columns = (std::uint64_t{1} << 24) - 512;

[[nodiscard]] constexpr std::size_t pair_bytes(bool nibbles) noexcept {
    return nibbles ? 3 * step_slots : 4 * step_slots;
}

/// Bytes of a limb plane of `cols` activations: a window, or a block of codes, may reach past the
/// last column.
[[nodiscard]] constexpr std::size_t plane_bytes(std::size_t cols) noexcept {
    return (cols + 63) / 64 * 64 + 192;
}

struct Sell {
    std::array<Limbs, max_limbs> limbs;  // [limbs - 1]
    SellShape shape = no_sell;
    std::size_t codes = 0;                            // values in the codebook
    std::optional<Integers> integers;                 // that dense slices hold instead of codes
    Outliers outliers;                                // beside the integers
    support::AlignedBuffer<std::uint8_t> entries;     // [pairs * pair_bytes]
    support::AlignedBuffer<std::uint8_t> advances;    // [2 * pairs], in units of window_grain
    std::vector<std::uint32_t> slice_starts;          // [slices + 1], in pairs
    std::vector<std::uint32_t> row_order;             // [rows]: row r % 16 of slice r / 16
    std::vector<float> sums;                          // [16 * slices] of the weights, in row order
    std::size_t row_bytes = 0;                        // of the codes of a row, where dense
    std::array<double, arithmetics.size()> errors{};  // the worst row's, per max|x| * sum |w|
    double heaviest_row = 0.0;                        // the largest sum |w| of a row

    /// The largest magnitude in the codebook.
    [[nodiscard]] double largest_weight() const noexcept { return 127.0 * limbs[0].unit; }

    [[nodiscard]] bool nibbles() const noexcept { return codes <= 16; }
    [[nodiscard]] std::size_t slices() const noexcept { return slice_starts.size() - 1; }
    [[nodiscard]] std::size_t nbytes() const noexcept;
};

/// Calls `visit(column, code)` for the entries, in order, of a row of integers.
template <class Visit>
void for_each_integer_of(const Sell& layout, const Integers& integers, std::size_t row,
                         const Visit& visit) {
    const Outliers& outliers = layout.outliers;
    std::size_t next = outliers.row_starts.empty() ? 0 : outliers.row_starts[row];
    const std::size_t end = outliers.row_starts.empty() ? 0 : outliers.row_starts[row + 1];
    const std::uint8_t* line =
        dense_codes::first_line(layout.entries.data(), layout.row_bytes, row);
    for (std::size_t first = 0; first < layout.row_bytes; first += dense_codes::line_bytes) {
        for (std::size_t i = 0; i < dense_codes::line_bytes; ++i) {
            if (line[i] != 0) {
                visit(first + i, integers.code_of[line[i]]);
            } else if (next < end && outliers.columns[next] == first + i) {
                visit(first + i, outliers.codes[next++]);
            }
        }
        line += dense_codes::group_rows * dense_codes::line_bytes;
    }
}

/// Calls `visit(column, code)` for the entries, in order, of a row that is dense.
template <class Visit>
void for_each_dense_entry_of(const Sell& layout, std::size_t row, const Visit& visit) {
    const int bits = dense_codes::code_bits(layout.codes);
    if (layout.integers.has_value()) {
        return for_each_integer_of(layout, *layout.integers, row, visit);
    }
    const std::uint8_t* line =
        dense_codes::first_line(layout.entries.data(), layout.row_bytes, row);
    std::size_t column = 0;
    for (std::size_t at = 0; at < layout.row_bytes; at += dense_codes::line_bytes) {
        for (int shift = 0; shift < 8; shift += bits) {
            for (std::size_t i = 0; i < dense_codes::line_bytes; ++i, ++column) {
                const int code = line[i] >> shift & ((1 << bits) - 1);
                if (code != 0) visit(column, static_cast<std::uint8_t>(code));
            }
        }
        line += dense_codes::group_rows * dense_codes::line_bytes;
    }
}

/// The way back.
[[nodiscard]] Csr16 make_csr16(const Sell& source, std::uint32_t rows, std::uint32_t cols);

/// Calls `visit(column, code)` for the entries, in order, of row `place` in the order of the
/// slices.
template <class Visit>
void for_each_entry_of(const Sell& layout, std::size_t place, const Visit& visit) {
    if (layout.shape.dense) return for_each_dense_entry_of(layout, place, visit);
    const bool nibbles = layout.nibbles();
    const std::size_t s = place / slice_rows;
    const std::size_t first_slot = place % slice_rows * row_slots;
    std::size_t window = 0;
    for (std::size_t p = layout.slice_starts[s]; p < layout.slice_starts[s + 1]; ++p) {
        const std::uint8_t* pair = layout.entries.data() + p * pair_bytes(nibbles);
        const std::uint8_t* codes = pair + 2 * step_slots;
        for (std::size_t step = 0; step < 2; ++step) {
            window += std::size_t{layout.advances[2 * p + step]} * layout.shape.window_grain;
            for (std::size_t slot = first_slot; slot < first_slot + row_slots; ++slot) {
                const int code = nibbles ? codes[slot] >> (4 * step) & 15
                                         : static_cast<int>(codes[step * step_slots + slot]);
                if (code == 0) continue;
                visit(window + pair[step * step_slots + slot], static_cast<std::uint8_t>(code));
            }
        }
    }
}

/// Calls `visit(row, column, code)` for each entry; those of a row come in order.
template <class Visit>
void for_each_entry(const Sell& layout, const Visit& visit) {
    for (std::size_t place = 0; place < layout.row_order.size(); ++place) {
        const std::uint32_t row = layout.row_order[place];
        for_each_entry_of(layout, place,
                          [&](std::size_t column, std::uint8_t code) { visit(row, column, code); });
    }
}

/// Activations in limbs: x[k] = low + unit * (sum of limbs[p * stride + k] * 256^p).
struct FixedActivations {
    const std::uint8_t* limbs;
    std::size_t stride;
    double low;
    double unit;
    const float* values = nullptr;     // [columns], the activations themselves
    const float* sum_rests = nullptr;  // what `Sell::sums` lack, where fp32 is too short
};

}  // namespace tersor::spmm
