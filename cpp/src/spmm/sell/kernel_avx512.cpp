// AVX-512 with VBMI and VNNI: products with one or several vectors in fixed point, without gathers.
//
// The limbs of the 128 activations of a window fill two registers for each limb. `vpermi2b` looks
// up the limb of the column of each of the 64 slots, `vpermb` the limbs of each slot's code, and
// `vpdpbusd` adds the products of the four slots of each row to the row's 32-bit sum: integers, so
// exact.
//
// Bottleneck in the caches: on Intel the one port that shuffles bytes, 9 shuffles of a step of
// `high` in wide windows and 6 in narrow ones; on Zen 4 the three vector ports, 8 cycles for its 6
// look-ups and 6 products, and loads, 10.5 at one a cycle. Beyond the caches memory. Cycles per
// non-zero and vector on Zen 4: .19 `high`, .13 `medium`, .09 `low`. The layout is a variant of
// SELL-C-sigma (Kreutzer et al. 2014); docs/kernels/sell.md has the measurements.
#include "dispatch/architecture.hpp"
#include "spmm/sell/kernels.hpp"

#if TERSOR_AVX512

#include <immintrin.h>

#include <algorithm>

#include "dispatch/target_avx512.hpp"

#include "spmm/sell/code_table_avx512.hpp"

namespace tersor::spmm::sell {
namespace {

/// Pairs of steps after which 32-bit sums are folded into double ones. A step adds at most
/// 4 * 255 * 128 to a sum, and up to three sums are added before they are converted.
constexpr std::size_t pairs_per_fold = 2048;
static_assert(pairs_per_fold * 2 * 3 * 4 * 255 * 128 < (std::size_t{1} << 31));

/// How far ahead of its use an entry is fetched, in bytes. The processor fetches ahead too late:
/// with one or two limbs of x, for which entries are wanted fastest, they go into the first cache
/// at once; else first into the second one, as a core keeps only some twenty misses of its first
/// cache in flight, which limits it to half of the memory's bandwidth.
constexpr std::size_t direct_distance = 4096;
constexpr std::size_t far_distance = 16384;
constexpr std::size_t near_distance = 1536;

template <int x_limbs>
void prefetch(const std::uint8_t* line) noexcept {
    const auto* at = reinterpret_cast<const char*>(line);
    if constexpr (x_limbs <= 2) {
        _mm_prefetch(at + direct_distance, _MM_HINT_T0);
    } else {
        _mm_prefetch(at + far_distance, _MM_HINT_T1);
        _mm_prefetch(at + near_distance, _MM_HINT_T0);
    }
}

template <int x_limbs, bool nibbles>
void prefetch_pair(const std::uint8_t* entries) noexcept {
    for (std::size_t line = 0; line < pair_bytes(nibbles); line += 64) {
        prefetch<x_limbs>(entries + line);
    }
}

__m512i load(const void* address) noexcept { return _mm512_load_si512(address); }
/// Loads what is used several times. GCC 12 would otherwise load it again for each use, and loads
/// are what the kernels here have least of.
__m512i load_once(const void* address) noexcept {
    __m512i value = load(address);
    __asm__("" : "+v"(value));
    return value;
}
__m512i load_unaligned(const void* address) noexcept { return _mm512_loadu_si512(address); }

/// Vectors that share the look-ups of columns and codes in one pass: as many as have room for their
/// sums in registers.
constexpr int items_together(Arithmetic arithmetic, int table_size) noexcept {
    if (table_size > 64 || arithmetic == finest_arithmetic) return 1;
    if (arithmetic == Arithmetic{1, 1, 0}) return 8;
    return arithmetic.x_limbs == 3 ? 2 : 4;
}

/// The products of limbs that an arithmetic keeps, and a 32-bit sum for each.
template <int x_limbs, int w_limbs, int lowest, int items>
struct Products {
    static constexpr int places = x_limbs + w_limbs - 1 - lowest;
    static constexpr int count = [] {
        int n = 0;
        for (int p = 0; p < x_limbs; ++p) {
            for (int q = 0; q < w_limbs; ++q) n += p + q >= lowest ? 1 : 0;
        }
        return n;
    }();
    // A sum is only ready for the next product after four cycles: where a step takes less, the two
    // steps of a pair have sums of their own.
    static constexpr int chains = items == 1 && count < 3 ? 2 : 1;

    __m512i sums[chains][count];

    void clear() noexcept {
        for (auto& chain : sums) {
            for (__m512i& sum : chain) sum = _mm512_setzero_si512();
        }
    }

    void add(int step, const __m512i (&x)[x_limbs], const __m512i (&w)[w_limbs]) noexcept {
        __m512i* sum = sums[step % chains];
        for (int p = x_limbs - 1; p >= 0; --p) {
            for (int q = w_limbs - 1; q >= 0; --q) {
                if (p + q < lowest) continue;
                *sum = _mm512_dpbusd_epi32(*sum, x[p], w[q]);
                ++sum;
            }
        }
    }

    /// totals += the sums, weighted.
    void fold(double unit, __m512d (&totals)[2]) const noexcept {
        __m512i by_place[places];
        for (__m512i& place : by_place) place = _mm512_setzero_si512();
        for (const auto& chain : sums) {
            const __m512i* sum = chain;
            for (int p = x_limbs - 1; p >= 0; --p) {
                for (int q = w_limbs - 1; q >= 0; --q) {
                    if (p + q < lowest) continue;
                    by_place[p + q - lowest] = _mm512_add_epi32(by_place[p + q - lowest], *sum);
                    ++sum;
                }
            }
        }
        for (int place = 0; place < places; ++place) {
            const double weight =
                unit * static_cast<double>(std::uint64_t{1} << (8 * (place + lowest)));
            const __m512d factor = _mm512_set1_pd(weight);
            const __m256i low = _mm512_castsi512_si256(by_place[place]);
            const __m256i high = _mm512_extracti64x4_epi64(by_place[place], 1);
            totals[0] = _mm512_fmadd_pd(_mm512_cvtepi32_pd(low), factor, totals[0]);
            totals[1] = _mm512_fmadd_pd(_mm512_cvtepi32_pd(high), factor, totals[1]);
        }
    }
};

/// A limb of the activations in a window, looked up for each slot's column.
template <bool narrow>
__m512i look_up(const std::uint8_t* window, __m512i columns) noexcept {
    const __m512i lower = load_unaligned(window);
    if constexpr (narrow) return _mm512_permutexvar_epi8(columns, lower);
    return _mm512_permutex2var_epi8(lower, columns, load_unaligned(window + 64));
}

/// y = totals + low * the sums of the rows + bias, for the rows of a slice. One function for all
/// copies of the kernel, whose sums come in registers.
[[gnu::noinline]] void put(const Sell& layout, const FixedActivations& x, std::size_t slice,
                           __m512d lower, __m512d upper, const float* bias, float* y) noexcept {
    const std::size_t first_row = slice * slice_rows;
    const __m512d low = _mm512_set1_pd(x.low);
    const auto with_sums = [&](__m512d total, const float* sums) noexcept {
        return _mm512_fmadd_pd(_mm512_cvtps_pd(_mm256_loadu_ps(sums + first_row)), low, total);
    };
    if (x.low != 0.0) {
        const float* sums = layout.sums.data();
        lower = with_sums(lower, sums);
        upper = with_sums(upper, sums + 8);
        if (x.sum_rests != nullptr) {
            lower = with_sums(lower, x.sum_rests);
            upper = with_sums(upper, x.sum_rests + 8);
        }
    }
    alignas(64) float out[slice_rows];
    _mm256_store_ps(out, _mm512_cvtpd_ps(lower));
    _mm256_store_ps(out + 8, _mm512_cvtpd_ps(upper));
    const std::uint32_t* row = layout.row_order.data() + first_row;
    const std::size_t row_count = std::min(slice_rows, layout.row_order.size() - first_row);
    for (std::size_t r = 0; r < row_count; ++r) {
        y[row[r]] = bias == nullptr ? out[r] : out[r] + bias[row[r]];
    }
}

/// `items` neighbouring vectors of x and y; the windows have 64 columns (narrow) or 128.
template <int x_limbs, int w_limbs, int lowest, int table_size, bool nibbles, bool narrow,
          int items>
void slices(const Sell& layout, const Limbs& limbs, const FixedActivations* x, const float* bias,
            float* y, std::size_t slice_begin, std::size_t slice_end) noexcept {
    using Table = CodeTable<table_size>;
    Table tables[] = {Table(limbs.table[0].data()), Table(limbs.table[1].data()),
                      Table(limbs.table[2].data())};
    constexpr std::size_t grain =
        narrow ? narrow_sell_avx512.window_grain : sell_avx512.window_grain;
    const std::size_t stride = x->stride;
    const std::size_t rows = layout.row_order.size();
    for (std::size_t s = slice_begin; s < slice_end; ++s) {
        __m512d totals[items][2];
        for (auto& total : totals) total[0] = total[1] = _mm512_setzero_pd();
        const std::uint8_t* window = x->limbs;
        std::size_t pair = layout.slice_starts[s];
        for (const std::size_t end = layout.slice_starts[s + 1]; pair < end;) {
            const std::uint8_t* entries = layout.entries.data() + pair * pair_bytes(nibbles);
            const std::uint8_t* advance = layout.advances.data() + 2 * pair;
            const std::size_t stop = std::min(end, pair + pairs_per_fold);
            Products<x_limbs, w_limbs, lowest, items> products[items];
            for (auto& product : products) product.clear();
            for (; pair < stop; ++pair, entries += pair_bytes(nibbles), advance += 2) {
                prefetch_pair<x_limbs, nibbles>(entries);
                __m512i codes = load_once(entries + 2 * step_slots);
#pragma GCC unroll 2
                for (int step = 0; step < 2; ++step) {
                    const __m512i columns = load_once(entries + step_slots * step);
                    if (step == 1) {
                        // Bits of the neighbouring code come along: tables of 16 values repeat.
                        codes =
                            nibbles ? _mm512_srli_epi16(codes, 4) : load(entries + 3 * step_slots);
                    }
                    __m512i w_limb[w_limbs];
                    for (int q = 0; q < w_limbs; ++q) w_limb[q] = tables[q][codes];
                    window += advance[step] * grain;
                    const std::uint8_t* from = window;
#pragma GCC unroll 8
                    for (int item = 0; item < items; ++item) {
                        __m512i x_limb[x_limbs];
                        for (int p = 0; p < x_limbs; ++p, from += stride) {
                            x_limb[p] = look_up<narrow>(from, columns);
                        }
                        products[item].add(step, x_limb, w_limb);
                    }
                }
            }
            for (int item = 0; item < items; ++item) {
                products[item].fold(x[item].unit * limbs.unit, totals[item]);
            }
        }
        for (int item = 0; item < items; ++item) {
            put(layout, x[item], s, totals[item][0], totals[item][1], bias,
                y + static_cast<std::size_t>(item) * rows);
        }
    }
}

template <int x_limbs, int w_limbs, int lowest, int table_size, bool nibbles, bool narrow>
void batch(const Sell& layout, const Limbs& weights, const FixedActivations* x, std::size_t items,
           const float* bias, float* y, std::size_t slice_begin, std::size_t slice_end) noexcept {
    constexpr auto together =
        static_cast<std::size_t>(items_together({x_limbs, w_limbs, lowest}, table_size));
    const std::size_t rows = layout.row_order.size();
    for (std::size_t i = 0; i < items;) {
        const bool group = items - i >= together;
        const auto run =
            group ? slices<x_limbs, w_limbs, lowest, table_size, nibbles, narrow, together>
                  : slices<x_limbs, w_limbs, lowest, table_size, nibbles, narrow, 1>;
        run(layout, weights, x + i, bias, y + i * rows, slice_begin, slice_end);
        i += group ? together : 1;
    }
}

template <int x_limbs, int w_limbs, int lowest>
void multiply_with(const Sell& layout, const Limbs& weights, const FixedActivations* x,
                   std::size_t items, const float* bias, float* y, std::size_t slice_begin,
                   std::size_t slice_end) noexcept {
    const bool narrow = layout.shape == narrow_sell_avx512;
    const auto run = layout.codes <= 16 ? narrow ? batch<x_limbs, w_limbs, lowest, 64, true, true>
                                                 : batch<x_limbs, w_limbs, lowest, 64, true, false>
                     : layout.codes <= 64  ? batch<x_limbs, w_limbs, lowest, 64, false, false>
                     : layout.codes <= 128 ? batch<x_limbs, w_limbs, lowest, 128, false, false>
                                           : batch<x_limbs, w_limbs, lowest, 256, false, false>;
    run(layout, weights, x, items, bias, y, slice_begin, slice_end);
}

void multiply(const Sell& layout, const Limbs& weights, Arithmetic arithmetic,
              const FixedActivations* x, std::size_t items, const float* bias, float* y,
              std::size_t slice_begin, std::size_t slice_end) noexcept {
    const auto run =
        with_arithmetic(arithmetic, []<int x_limbs, int w_limbs, int lowest>() noexcept {
            return multiply_with<x_limbs, w_limbs, lowest>;
        });
    run(layout, weights, x, items, bias, y, slice_begin, slice_end);
}

}  // namespace

void install(dispatch::Level<Isa::avx512>, Kernels& kernels) noexcept {
    kernels.multiply = multiply;
    install_fill_avx512(kernels);
    install_dense_avx512(kernels);
    install_integers_avx512(kernels);
}

}  // namespace tersor::spmm::sell

#include "dispatch/target_end.hpp"

#endif
