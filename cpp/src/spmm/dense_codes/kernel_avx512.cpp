// AVX-512 with VBMI and VNNI: products with dense codes. A line's codes are looked up 64 at a time,
// and `vpdpbusd` adds their products with the limbs of 64 neighbouring activations, which are read
// as they are: without the look-up of columns a weight takes a third of the shuffles.
#include "dispatch/architecture.hpp"
#include "spmm/dense_codes/layout.hpp"
#include "spmm/sell/kernels.hpp"

#if TERSOR_AVX512

#include <immintrin.h>

#include <algorithm>
#include <cstring>

#include "dispatch/target_avx512.hpp"

#include "spmm/sell/code_table_avx512.hpp"

namespace tersor::spmm::sell {
namespace {

using dense_codes::group_rows;
using dense_codes::line_bytes;

/// Lines of a row after which 32-bit sums are folded into double ones: one of codes of 2 bits adds
/// at most 4 * 4 * 255 * 128 to a sum, and up to three sums are added before they are converted.
constexpr std::size_t lines_per_fold = 1024;
static_assert(lines_per_fold * 3 * 4 * 4 * 255 * 128 < (std::size_t{1} << 31));

/// How far ahead of its use a line is fetched, in bytes.
constexpr std::size_t fetch_distance = 4096;

/// The products of limbs that an arithmetic keeps.
template <int x_limbs, int w_limbs, int lowest>
constexpr int product_count = [] {
    int n = 0;
    for (int p = 0; p < x_limbs; ++p) {
        for (int q = 0; q < w_limbs; ++q) n += p + q >= lowest ? 1 : 0;
    }
    return n;
}();

/// The limbs of 64 codes of `bits` bits, the lowest in their bytes; what is above is ignored.
template <int bits, int table_size>
class Codebook {
public:
    explicit Codebook(const std::int8_t* table) noexcept : table_(repeated(table)) {}
    [[nodiscard]] __m512i operator[](__m512i codes) const noexcept { return table_[codes]; }

private:
    /// The table of four values comes again for every four codes.
    static CodeTable<table_size> repeated(const std::int8_t* table) noexcept {
        if constexpr (bits != 2) return CodeTable<table_size>(table);
        alignas(64) std::int8_t all[64];
        for (int i = 0; i < 64; ++i) all[i] = table[i % 4];
        return CodeTable<table_size>(all);
    }

    CodeTable<table_size> table_;
};

/// The sum of the products of one row, in units of x and w.
template <int x_limbs, int w_limbs, int lowest, int count>
double total_of(const __m512i (&sums)[count]) noexcept {
    constexpr int levels = x_limbs + w_limbs - 1 - lowest;
    __m512i by_level[levels];
    for (__m512i& level : by_level) level = _mm512_setzero_si512();
    const __m512i* sum = sums;
#if defined(__GNUC__)
#pragma GCC unroll 3
#endif
    for (int p = x_limbs - 1; p >= 0; --p) {
#if defined(__GNUC__)
#pragma GCC unroll 3
#endif
        for (int q = w_limbs - 1; q >= 0; --q) {
            if (p + q < lowest) continue;
            by_level[p + q - lowest] = _mm512_add_epi32(by_level[p + q - lowest], *sum);
            ++sum;
        }
    }
    __m512d total = _mm512_setzero_pd();
#if defined(__GNUC__)
#pragma GCC unroll 5
#endif
    for (int level = 0; level < levels; ++level) {
        const auto weight = static_cast<double>(std::uint64_t{1} << (8 * (level + lowest)));
        const __m256i low = _mm512_castsi512_si256(by_level[level]);
        const __m256i high = _mm512_extracti64x4_epi64(by_level[level], 1);
        const __m512d both = _mm512_add_pd(_mm512_cvtepi32_pd(low), _mm512_cvtepi32_pd(high));
        total = _mm512_fmadd_pd(both, _mm512_set1_pd(weight), total);
    }
    return _mm512_reduce_add_pd(total);
}

/// totals += the products of `rows` neighbouring rows of a group with one vector.
template <int x_limbs, int w_limbs, int lowest, int bits, int table_size, int rows>
void multiply_rows(const std::uint8_t* line, std::size_t lines, const FixedActivations& x,
                   const Codebook<bits, table_size>* tables, double* totals) noexcept {
    constexpr int count = product_count<x_limbs, w_limbs, lowest>;
    constexpr std::size_t group_bytes = group_rows * line_bytes;
    const std::uint8_t* limbs = x.limbs;
    while (lines > 0) {
        const std::size_t taken = std::min(lines, lines_per_fold);
        lines -= taken;
        __m512i sums[rows][count];
        for (auto& row_sums : sums) {
            for (__m512i& sum : row_sums) sum = _mm512_setzero_si512();
        }
        for (const std::uint8_t* end = line + taken * group_bytes; line != end;
             line += group_bytes) {
            for (int r = 0; r < rows; ++r) {
                const std::size_t at = static_cast<std::size_t>(r) * line_bytes;
                _mm_prefetch(reinterpret_cast<const char*>(line) + fetch_distance + at,
                             _MM_HINT_T0);
            }
            __m512i codes[rows];
#if defined(__GNUC__)
#pragma GCC unroll 4
#endif
            for (int r = 0; r < rows; ++r) {
                codes[r] = _mm512_load_si512(line + static_cast<std::size_t>(r) * line_bytes);
            }
#if defined(__GNUC__)
#pragma GCC unroll 4
#endif
            for (int part = 0; part < 8 / bits; ++part, limbs += line_bytes) {
                __m512i x_limb[x_limbs];
#if defined(__GNUC__)
#pragma GCC unroll 3
#endif
                for (int p = 0; p < x_limbs; ++p) {
                    x_limb[p] = _mm512_loadu_si512(limbs + static_cast<std::size_t>(p) * x.stride);
                }
#if defined(__GNUC__)
#pragma GCC unroll 4
#endif
                for (int r = 0; r < rows; ++r) {
                    __m512i w_limb[w_limbs];
#if defined(__GNUC__)
#pragma GCC unroll 3
#endif
                    for (int q = 0; q < w_limbs; ++q) w_limb[q] = tables[q][codes[r]];
                    if (part + 1 < 8 / bits) codes[r] = _mm512_srli_epi16(codes[r], bits % 8);
                    __m512i* sum = sums[r];
                    // Unrolled, or the sums would not stay in registers.
#if defined(__GNUC__)
#pragma GCC unroll 3
#endif
                    for (int p = x_limbs - 1; p >= 0; --p) {
#if defined(__GNUC__)
#pragma GCC unroll 3
#endif
                        for (int q = w_limbs - 1; q >= 0; --q) {
                            if (p + q < lowest) continue;
                            *sum = _mm512_dpbusd_epi32(*sum, x_limb[p], w_limb[q]);
                            ++sum;
                        }
                    }
                }
            }
        }
        for (int r = 0; r < rows; ++r) {
            totals[r] += total_of<x_limbs, w_limbs, lowest, count>(sums[r]);
        }
    }
}

template <int x_limbs, int w_limbs, int lowest, int bits, int table_size>
void slices(const Sell& layout, const Limbs& limbs, const FixedActivations* x, std::size_t items,
            const float* bias, float* y, std::size_t slice_begin, std::size_t slice_end) noexcept {
    // As many rows as have room for their sums in registers.
    constexpr int rows = product_count<x_limbs, w_limbs, lowest> <= 4 ? 4 : 2;
    const Codebook<bits, table_size> tables[] = {Codebook<bits, table_size>(limbs.table[0].data()),
                                                 Codebook<bits, table_size>(limbs.table[1].data()),
                                                 Codebook<bits, table_size>(limbs.table[2].data())};
    const std::size_t row_count = layout.row_order.size();
    const std::size_t lines = layout.row_bytes / line_bytes;
    const std::size_t end = std::min(slice_end * slice_rows, row_count);
    for (std::size_t r = slice_begin * slice_rows; r < end; r += group_rows) {
        const std::uint8_t* line =
            dense_codes::first_line(layout.entries.data(), layout.row_bytes, r);
        for (std::size_t item = 0; item < items; ++item) {
            double totals[group_rows] = {};
            for (std::size_t first = 0; first < group_rows; first += rows) {
                multiply_rows<x_limbs, w_limbs, lowest, bits, table_size, rows>(
                    line + first * line_bytes, lines, x[item], tables, totals + first);
            }
            const double unit = x[item].unit * limbs.unit;
            for (std::size_t i = 0; i < std::min(group_rows, row_count - r); ++i) {
                double sum = double{layout.sums[r + i]};
                if (x[item].sum_rests != nullptr) sum += double{x[item].sum_rests[r + i]};
                const double total =
                    totals[i] * unit + (x[item].low != 0.0 ? x[item].low * sum : 0.0);
                const auto out = static_cast<float>(total);
                y[item * row_count + r + i] = bias == nullptr ? out : out + bias[r + i];
            }
        }
    }
}

template <int x_limbs, int w_limbs, int lowest>
void multiply_with(const Sell& layout, const Limbs& weights, const FixedActivations* x,
                   std::size_t items, const float* bias, float* y, std::size_t slice_begin,
                   std::size_t slice_end) noexcept {
    const auto run = layout.codes <= 4    ? slices<x_limbs, w_limbs, lowest, 2, 64>
                     : layout.codes <= 16 ? slices<x_limbs, w_limbs, lowest, 4, 64>
                     : layout.codes <= 64 ? slices<x_limbs, w_limbs, lowest, 8, 64>
                                          : slices<x_limbs, w_limbs, lowest, 8, 256>;
    run(layout, weights, x, items, bias, y, slice_begin, slice_end);
}

void multiply_dense(const Sell& layout, const Limbs& weights, Arithmetic arithmetic,
                    const FixedActivations* x, std::size_t items, const float* bias, float* y,
                    std::size_t slice_begin, std::size_t slice_end) noexcept {
    const auto run =
        with_arithmetic(arithmetic, []<int x_limbs, int w_limbs, int lowest>() noexcept {
            return multiply_with<x_limbs, w_limbs, lowest>;
        });
    run(layout, weights, x, items, bias, y, slice_begin, slice_end);
}

}  // namespace

void install_dense_avx512(Kernels& kernels) noexcept { kernels.multiply_dense = multiply_dense; }

}  // namespace tersor::spmm::sell

#include "dispatch/target_end.hpp"

#endif
