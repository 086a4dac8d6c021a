// AVX2: products with dense codes, 32 at a time. A byte shuffle looks the limbs of codes of up to
// 16 values up; products of limbs of 7 bits are added in pairs of 16 bits, then in fours of 32.
#include "dispatch/architecture.hpp"
#include "spmm/dense_codes/layout.hpp"
#include "spmm/sell/kernels.hpp"

#if TERSOR_X86

#include <immintrin.h>

#include <algorithm>

#include "dispatch/target_avx2.hpp"

namespace tersor::spmm::sell {
namespace {

using dense_codes::group_rows;
using dense_codes::line_bytes;

constexpr int limb_bits = sell_avx2.limb_bits;

/// Lines of a row after which 32-bit sums are folded into double ones: one of codes of 2 bits adds
/// at most 8 * 4 * 127 * 127 to a sum, and up to three sums are added before they are converted.
constexpr std::size_t lines_per_fold = 1024;
static_assert(lines_per_fold * 3 * 8 * 4 * 127 * 127 < (std::size_t{1} << 31));

template <int x_limbs, int w_limbs, int lowest>
constexpr int product_count = [] {
    int n = 0;
    for (int p = 0; p < x_limbs; ++p) {
        for (int q = 0; q < w_limbs; ++q) n += p + q >= lowest ? 1 : 0;
    }
    return n;
}();

double sum_of(__m256i values) noexcept {
    const __m128i half =
        _mm_add_epi32(_mm256_castsi256_si128(values), _mm256_extracti128_si256(values, 1));
    alignas(16) std::int32_t four[4];
    _mm_store_si128(reinterpret_cast<__m128i*>(four), half);
    return 0.0 + four[0] + four[1] + four[2] + four[3];
}

/// The products of one row with one vector, in units of x and w.
template <int x_limbs, int w_limbs, int lowest, int bits>
double multiply_row(const std::uint8_t* line, std::size_t lines, const FixedActivations& x,
                    const __m256i* tables) noexcept {
    constexpr int count = product_count<x_limbs, w_limbs, lowest>;
    constexpr std::size_t group_bytes = group_rows * line_bytes;
    const __m256i low_bits = _mm256_set1_epi8(static_cast<char>((1 << bits) - 1));
    const __m256i ones = _mm256_set1_epi16(1);
    const std::uint8_t* limbs = x.limbs;
    double total = 0.0;
    while (lines > 0) {
        const std::size_t taken = std::min(lines, lines_per_fold);
        lines -= taken;
        __m256i sums[count];
        for (__m256i& sum : sums) sum = _mm256_setzero_si256();
        for (const std::uint8_t* end = line + taken * group_bytes; line != end;
             line += group_bytes, limbs += dense_codes::line_columns(bits)) {
            for (std::size_t half = 0; half < line_bytes; half += 32) {
                __m256i codes = _mm256_load_si256(reinterpret_cast<const __m256i*>(line + half));
                for (int part = 0; part < 8 / bits; ++part) {
                    const __m256i low = _mm256_and_si256(codes, low_bits);
                    codes = _mm256_srli_epi16(codes, bits);
                    __m256i w_limb[w_limbs];
                    for (int q = 0; q < w_limbs; ++q) {
                        w_limb[q] = _mm256_shuffle_epi8(tables[q], low);
                    }
                    const std::uint8_t* from =
                        limbs + static_cast<std::size_t>(part) * line_bytes + half;
                    __m256i* sum = sums;
                    // Unrolled, or the sums would not stay in registers.
#if defined(__GNUC__)
#pragma GCC unroll 3
#endif
                    for (int p = x_limbs - 1; p >= 0; --p) {
                        const __m256i x_limb = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(
                            from + static_cast<std::size_t>(p) * x.stride));
#if defined(__GNUC__)
#pragma GCC unroll 3
#endif
                        for (int q = w_limbs - 1; q >= 0; --q) {
                            if (p + q < lowest) continue;
                            const __m256i pairs = _mm256_maddubs_epi16(x_limb, w_limb[q]);
                            *sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(pairs, ones));
                            ++sum;
                        }
                    }
                }
            }
        }
        const __m256i* sum = sums;
        for (int p = x_limbs - 1; p >= 0; --p) {
            for (int q = w_limbs - 1; q >= 0; --q) {
                if (p + q < lowest) continue;
                total +=
                    static_cast<double>(std::uint64_t{1} << (limb_bits * (p + q))) * sum_of(*sum);
                ++sum;
            }
        }
    }
    return total;
}

template <int x_limbs, int w_limbs, int lowest, int bits>
void slices(const Sell& layout, const Limbs& limbs, const FixedActivations* x, std::size_t items,
            const float* bias, float* y, std::size_t slice_begin, std::size_t slice_end) noexcept {
    __m256i tables[w_limbs];
    for (int q = 0; q < w_limbs; ++q) {
        const auto* table = limbs.table[static_cast<std::size_t>(q)].data();
        tables[q] =
            _mm256_broadcastsi128_si256(_mm_load_si128(reinterpret_cast<const __m128i*>(table)));
    }
    const std::size_t row_count = layout.row_order.size();
    const std::size_t lines = layout.row_bytes / line_bytes;
    const std::size_t end = std::min(slice_end * slice_rows, row_count);
    for (std::size_t r = slice_begin * slice_rows; r < end; ++r) {
        const std::uint8_t* line =
            dense_codes::first_line(layout.entries.data(), layout.row_bytes, r);
        for (std::size_t item = 0; item < items; ++item) {
            const double total =
                multiply_row<x_limbs, w_limbs, lowest, bits>(line, lines, x[item], tables) *
                    x[item].unit * limbs.unit +
                (x[item].low != 0.0 ? x[item].low * double{layout.sums[r]} : 0.0);
            const auto out = static_cast<float>(total);
            y[item * row_count + r] = bias == nullptr ? out : out + bias[r];
        }
    }
}

template <int x_limbs, int w_limbs, int lowest>
void multiply_with(const Sell& layout, const Limbs& weights, const FixedActivations* x,
                   std::size_t items, const float* bias, float* y, std::size_t slice_begin,
                   std::size_t slice_end) noexcept {
    const auto run = layout.codes <= 4 ? slices<x_limbs, w_limbs, lowest, 2>
                                       : slices<x_limbs, w_limbs, lowest, 4>;
    run(layout, weights, x, items, bias, y, slice_begin, slice_end);
}

void multiply_dense(const Sell& layout, const Limbs& weights, Arithmetic arithmetic,
                    const FixedActivations* x, std::size_t items, const float* bias, float* y,
                    std::size_t slice_begin, std::size_t slice_end) noexcept {
    const auto run = arithmetic == Arithmetic{1, 1, 0}   ? multiply_with<1, 1, 0>
                     : arithmetic == Arithmetic{1, 2, 0} ? multiply_with<1, 2, 0>
                     : arithmetic == Arithmetic{2, 2, 1} ? multiply_with<2, 2, 1>
                     : arithmetic == Arithmetic{2, 2, 0} ? multiply_with<2, 2, 0>
                                                         : multiply_with<3, 3, 2>;
    run(layout, weights, x, items, bias, y, slice_begin, slice_end);
}

}  // namespace

void install_dense_avx2(Kernels& kernels) noexcept { kernels.multiply_dense = multiply_dense; }

}  // namespace tersor::spmm::sell

#include "dispatch/target_end.hpp"

#endif
