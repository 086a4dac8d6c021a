// The packed layout "sliding": 16 rows advance together through the columns. A step holds up to
// four entries of each row, all within one window of 128 or 64 columns (AVX2, NEON: 64), whose
// activations fit into one to four registers for each digit: so a look-up inside registers replaces
// the gather.
//
// Step: 64 slots, slot 4r + k belongs to row r of the slice.
// Pair of steps: 64 + 64 bytes of columns (relative to the window of their step), then the codes:
// 64 bytes, the first step's in the low and the second's in the high halves, or 64 + 64 bytes where
// the codebook has more than 16 values. Unused slots hold code 0, whose weight is 0. A byte for
// each step says how far its window moves.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "spmm/fixed_point.hpp"
#include "spmm/rows16.hpp"
#include "support/aligned_buffer.hpp"
#include "tersor/isa.hpp"

namespace tersor::spmm {

inline constexpr std::size_t slice_rows = 16;
inline constexpr std::size_t step_slots = 64;
inline constexpr std::size_t row_slots = step_slots / slice_rows;  // of a row in a step

/// What differs between instruction sets.
struct SlidingShape {
    std::uint32_t window_columns;  // whose activations the kernel holds in registers
    std::uint32_t window_grain;    // windows start at multiples of it
    int digit_bits;                // of x and of the weights
    std::size_t max_codes;         // values in a codebook
    int planes_per_digit = 1;      // of x; a second one holds differences

    friend constexpr bool operator==(const SlidingShape&, const SlidingShape&) = default;
};

inline constexpr SlidingShape no_sliding{0, 1, 8, 0};
inline constexpr SlidingShape sliding_avx2{64, 16, 7, 16, 2};
inline constexpr SlidingShape sliding_avx512{128, 32, 8, 256};
inline constexpr SlidingShape narrow_sliding_avx512{64, 16, 8, 16};
inline constexpr SlidingShape sliding_neon{64, 16, 7, 64};

[[nodiscard]] constexpr SlidingShape sliding_shape(Isa isa) noexcept {
    switch (isa) {
        case Isa::avx512:
        case Isa::amx: return sliding_avx512;
        case Isa::avx2: return sliding_avx2;
        case Isa::neon: return sliding_neon;
        case Isa::scalar: break;
    }
    return no_sliding;
}

/// Non-zeros of a layout that a core's second cache holds: reading it is not what takes the time.
inline constexpr std::size_t cached_nonzeros = 640'000;

/// The shape for a matrix of `weights` elements, given that of its instruction set. Narrow windows
/// take one shuffle less for each digit of x, and more slots: 6 % more at 25 % density, 9 % at 20
/// %, 19 % at 10 %. In the second cache that pays from about 8 %, elsewhere where the slots are
/// few.
[[nodiscard]] constexpr SlidingShape shape_for(const SlidingShape& usual, std::size_t codes,
                                               std::size_t nonzeros,
                                               std::uint64_t weights) noexcept {
    if (usual != sliding_avx512 || codes > narrow_sliding_avx512.max_codes) return usual;
    const std::uint64_t least = nonzeros <= cached_nonzeros ? weights / 11 : weights / 5;
    return nonzeros >= least ? narrow_sliding_avx512 : usual;
}

/// How far a window moves in one step, in grains: a row without entries for longer than that takes
/// empty steps.
inline constexpr std::uint32_t max_advance = 255;

/// Columns that an `Entry` can name, and a window behind each.
inline constexpr std::uint64_t max_sliding_columns = (std::uint64_t{1} << 24) - 512;

[[nodiscard]] constexpr std::size_t pair_bytes(bool nibbles) noexcept {
    return nibbles ? 3 * step_slots : 4 * step_slots;
}

/// Bytes of a digit plane of `cols` activations: a window may reach past the last column.
[[nodiscard]] constexpr std::size_t plane_bytes(std::size_t cols) noexcept {
    return (cols + 63) / 64 * 64 + 128;
}

struct Sliding {
    std::array<Digits, max_digits> digits;  // [digits - 1]
    SlidingShape shape = no_sliding;
    std::size_t codes = 0;                            // values in the codebook
    support::AlignedBuffer<std::uint8_t> entries;     // [pairs * pair_bytes]
    support::AlignedBuffer<std::uint8_t> advances;    // [2 * pairs], in units of window_grain
    std::vector<std::uint32_t> slice_starts;          // [slices + 1], in pairs
    std::vector<std::uint32_t> row_order;             // [rows]: row r % 16 of slice r / 16
    std::vector<float> sums;                          // [16 * slices] of the weights, in row order
    std::array<double, arithmetics.size()> errors{};  // the worst row's, per max|x| * sum |w|
    double heaviest_row = 0.0;                        // the largest sum |w| of a row

    /// The largest magnitude in the codebook.
    [[nodiscard]] double largest_weight() const noexcept { return 127.0 * digits[0].unit; }

    [[nodiscard]] bool nibbles() const noexcept { return codes <= 16; }
    [[nodiscard]] std::size_t slices() const noexcept { return slice_starts.size() - 1; }
    [[nodiscard]] std::size_t nbytes() const noexcept;
};

/// The way back.
[[nodiscard]] Rows16 make_rows16(const Sliding& source, std::uint32_t rows, std::uint32_t cols);

/// Calls `visit(column, code)` for the entries, in order, of row `place` in the order of the
/// slices.
template <class Visit>
void for_each_entry_of(const Sliding& layout, std::size_t place, const Visit& visit) {
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
void for_each_entry(const Sliding& layout, const Visit& visit) {
    for (std::size_t place = 0; place < layout.row_order.size(); ++place) {
        const std::uint32_t row = layout.row_order[place];
        for_each_entry_of(layout, place,
                          [&](std::size_t column, std::uint8_t code) { visit(row, column, code); });
    }
}

/// Activations in digits: x[k] = low + unit * (sum of digits[p * stride + k] * 256^p).
struct FixedActivations {
    const std::uint8_t* digits;
    std::size_t stride;
    double low;
    double unit;
    const float* sum_rests = nullptr;  // what `Sliding::sums` lack, where fp32 is too short
};

}  // namespace tersor::spmm
