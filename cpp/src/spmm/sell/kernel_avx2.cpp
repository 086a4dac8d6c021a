// AVX2: products with a vector in fixed point, without gathers.
//
// The limbs of the 64 activations of a window fill four registers of 16 bytes for each limb. A
// byte shuffle looks up the low four bits of a column in each of them, or yields 0 where the byte's
// upper bit is set. An addition sets it from some column on, so the look-ups that count for a
// column are those of its own register and of all behind it. These registers hold differences (a
// limb xor the one 16 columns on) and the last one limbs: xor leaves the limb that is wanted.
// It takes half of the operations of choosing by blends, which are three each on Intel's cores.
//
// Limbs have 7 bits, so that `vpmaddubsw` can add two of their products in 16 bits.
//
// Bottleneck: the three vector ports; `medium` takes 29.5 to 32.5 operations for 32 slots, 9.8
// cycles computed and 12.2 measured on Granite Rapids, .58 per non-zero at 9 %.
#include "dispatch/architecture.hpp"
#include "spmm/sell/kernels.hpp"

#if TERSOR_X86

#include <immintrin.h>

#include <algorithm>

#include "dispatch/target_avx2.hpp"

namespace tersor::spmm::sell {
namespace {

constexpr int limb_bits = sell_avx2.limb_bits;
constexpr int half_rows = slice_rows / 2;  // whose slots one register holds
constexpr std::size_t half_slots = step_slots / 2;
constexpr std::size_t lane = 16;  // bytes that one shuffle looks up

/// Pairs of steps after which 32-bit sums are folded into double ones. A step adds at most
/// 4 * 127 * 127 for each product, of which up to three go to one sum.
constexpr std::size_t pairs_per_fold = 4096;
static_assert(pairs_per_fold * 2 * 3 * 4 * 127 * 127 < (std::size_t{1} << 31));

/// As in sell_avx512.cpp: far ahead, into the second cache.
constexpr std::size_t prefetch_distance = 16384;

__m256i load(const void* address) noexcept {
    return _mm256_load_si256(static_cast<const __m256i*>(address));
}
__m256i load_lane(const void* address) noexcept {
    return _mm256_broadcastsi128_si256(_mm_loadu_si128(static_cast<const __m128i*>(address)));
}

/// Columns of a window as look-ups: [k] yields 0 for those past register k.
struct Columns {
    __m256i within[4];

    explicit Columns(__m256i column) noexcept {
        for (int k = 0; k < 3; ++k) {
            const auto offset = static_cast<char>(128 - (k + 1) * static_cast<int>(lane));
            within[k] = _mm256_add_epi8(column, _mm256_set1_epi8(offset));
        }
        within[3] = column;
    }
};

/// The limbs of a window by column; `differences` are those of its columns.
__m256i look_up(const std::uint8_t* window, const std::uint8_t* differences,
                const Columns& columns) noexcept {
    const auto part = [&](const std::uint8_t* from, std::size_t k) noexcept {
        return _mm256_shuffle_epi8(load_lane(from + k * lane), columns.within[k]);
    };
    return _mm256_xor_si256(_mm256_xor_si256(part(differences, 0), part(differences, 1)),
                            _mm256_xor_si256(part(differences, 2), part(window, 3)));
}

template <int x_limbs, int w_limbs, int lowest>
struct PlaceSums {
    static constexpr int count = x_limbs + w_limbs - 1 - lowest;

    __m256i sums[count];

    void clear() noexcept {
        for (__m256i& sum : sums) sum = _mm256_setzero_si256();
    }

    /// Limb p of x times those of the weights.
    void add(int p, __m256i x, const __m256i (&w)[w_limbs]) noexcept {
        const __m256i ones = _mm256_set1_epi16(1);
        for (int q = 0; q < w_limbs; ++q) {
            if (p + q < lowest) continue;
            const __m256i four = _mm256_madd_epi16(_mm256_maddubs_epi16(x, w[q]), ones);
            sums[p + q - lowest] = _mm256_add_epi32(sums[p + q - lowest], four);
        }
    }

    /// What was added so far is added up before anything else.
    void settle() noexcept {
        for (__m256i& sum : sums) __asm__ volatile("" : "+x"(sum));
    }

    /// totals += the sums, weighted.
    void fold(double unit, double* totals) const noexcept {
        for (int place = 0; place < count; ++place) {
            const double weight =
                unit * static_cast<double>(std::uint64_t{1} << (limb_bits * (place + lowest)));
            const __m256d factor = _mm256_set1_pd(weight);
            for (int half = 0; half < 2; ++half) {
                const __m128i four = half == 0 ? _mm256_castsi256_si128(sums[place])
                                               : _mm256_extracti128_si256(sums[place], 1);
                double* to = totals + 4 * half;
                _mm256_store_pd(
                    to, _mm256_fmadd_pd(_mm256_cvtepi32_pd(four), factor, _mm256_load_pd(to)));
            }
        }
    }
};

template <int x_limbs, int w_limbs, int lowest>
void slices(const Sell& layout, const Limbs& limbs, const FixedActivations& x, const float* bias,
            float* y, std::size_t slice_begin, std::size_t slice_end) noexcept {
    const std::size_t rows = layout.row_order.size();
    const __m256i low_bits = _mm256_set1_epi8(15);
    __m256i tables[w_limbs];
    for (int q = 0; q < w_limbs; ++q) tables[q] = load(limbs.table[q].data());
    for (std::size_t s = slice_begin; s < slice_end; ++s) {
        const std::size_t first_row = s * slice_rows;
        const std::size_t row_count = std::min(slice_rows, rows - first_row);
        alignas(32) double totals[slice_rows] = {};
        const std::uint8_t* window = x.limbs;
        std::size_t pair = layout.slice_starts[s];
        for (const std::size_t end = layout.slice_starts[s + 1]; pair < end;) {
            const std::uint8_t* entries = layout.entries.data() + pair * pair_bytes(true);
            const std::uint8_t* advance = layout.advances.data() + 2 * pair;
            const std::size_t stop = std::min(end, pair + pairs_per_fold);
            PlaceSums<x_limbs, w_limbs, lowest> sums[2];
            for (auto& sum : sums) sum.clear();
            for (; pair < stop; ++pair, entries += pair_bytes(true), advance += 2) {
                for (std::size_t line = 0; line < pair_bytes(true); line += 64) {
                    _mm_prefetch(reinterpret_cast<const char*>(entries + prefetch_distance + line),
                                 _MM_HINT_T1);
                }
                for (int step = 0; step < 2; ++step) {
                    window += std::size_t{advance[step]} * sell_avx2.window_grain;
                    for (std::size_t half = 0; half < 2; ++half) {
                        // Load the window again, and only now: sixteen registers cannot keep it.
                        const std::uint8_t* planes = window;
                        __asm__ volatile("" : "+r"(planes) : : "memory");
                        const std::size_t slot = half_slots * half;
                        const Columns columns(
                            load(entries + static_cast<std::size_t>(step) * step_slots + slot));
                        __m256i codes = load(entries + 2 * step_slots + slot);
                        if (step == 1) codes = _mm256_srli_epi16(codes, 4);
                        codes = _mm256_and_si256(codes, low_bits);
                        __m256i w_limb[w_limbs];
                        for (int q = 0; q < w_limbs; ++q) {
                            w_limb[q] = _mm256_shuffle_epi8(tables[q], codes);
                        }
                        for (int p = 0; p < x_limbs; ++p) {
                            const std::uint8_t* plane =
                                planes + static_cast<std::size_t>(p) * x.stride;
                            const __m256i limb =
                                look_up(plane, plane + x_limbs * x.stride, columns);
                            sums[half].add(p, limb, w_limb);
                        }
                        sums[half].settle();
                    }
                }
            }
            for (int half = 0; half < 2; ++half) {
                sums[half].fold(x.unit * limbs.unit, totals + half_rows * half);
            }
        }
        const float* row_sums = layout.sums.data();
        const std::uint32_t* row = layout.row_order.data() + first_row;
        for (std::size_t r = 0; r < row_count; ++r) {
            const double total =
                x.low == 0.0 ? totals[r] : totals[r] + x.low * double{row_sums[first_row + r]};
            const auto out = static_cast<float>(total);
            y[row[r]] = bias == nullptr ? out : out + bias[row[r]];
        }
    }
}

void multiply(const Sell& layout, const Limbs& weights, Arithmetic arithmetic,
              const FixedActivations* x, std::size_t items, const float* bias, float* y,
              std::size_t slice_begin, std::size_t slice_end) noexcept {
    const auto run = arithmetic == Arithmetic{1, 1, 0}   ? slices<1, 1, 0>
                     : arithmetic == Arithmetic{1, 2, 0} ? slices<1, 2, 0>
                     : arithmetic == Arithmetic{2, 2, 1} ? slices<2, 2, 1>
                     : arithmetic == Arithmetic{2, 2, 0} ? slices<2, 2, 0>
                                                         : slices<3, 3, 2>;
    for (std::size_t i = 0; i < items; ++i) {
        run(layout, weights, x[i], bias, y + i * layout.row_order.size(), slice_begin, slice_end);
    }
}

}  // namespace

void install(dispatch::Level<Isa::avx2>, Kernels& kernels) noexcept {
    kernels.multiply = multiply;
    install_dense_avx2(kernels);
    install_integers_avx2(kernels);
}

}  // namespace tersor::spmm::sell

#include "dispatch/target_end.hpp"

#endif
