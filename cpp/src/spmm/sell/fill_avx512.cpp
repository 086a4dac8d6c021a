// AVX-512: filling the layout sell.
//
// Bottleneck: latency. A step waits 80 cycles for the one before, as its window begins where that
// left off: four slices side by side take 42 cycles a step.
#include "dispatch/architecture.hpp"
#include "spmm/sell/kernels.hpp"

#if TERSOR_AVX512

#include <immintrin.h>

#include <algorithm>
#include <bit>

#include "dispatch/target_avx512.hpp"

namespace tersor::spmm::sell {
namespace {

std::uint64_t first_bits(std::size_t count) noexcept {
    return _bzhi_u64(~std::uint64_t{0}, static_cast<unsigned>(std::min<std::size_t>(count, 64)));
}

void weigh_counts(const std::uint32_t* counts, std::size_t values, const CodeTerms* terms,
                  CodeTerms& totals) noexcept {
    __m512d sums[4] = {};
    for (std::size_t c = 0; c < values; c += 8) {
        const auto valid = static_cast<__mmask8>(first_bits(values - c));
        alignas(64) double count[8];
        _mm512_store_pd(count, _mm512_cvtepu32_pd(_mm256_maskz_loadu_epi32(valid, counts + c)));
        const std::size_t lanes = std::min<std::size_t>(values - c, 8);
        for (std::size_t i = 0; i < lanes; ++i) {
            sums[i % 4] = _mm512_fmadd_pd(_mm512_set1_pd(count[i]),
                                          _mm512_load_pd(terms[c + i].data()), sums[i % 4]);
        }
    }
    _mm512_store_pd(totals.data(), _mm512_add_pd(_mm512_add_pd(sums[0], sums[1]),
                                                 _mm512_add_pd(sums[2], sums[3])));
}

Moments moments_of(const RowStatistics* statistics, const std::uint32_t* rows,
                   std::size_t size) noexcept {
    const auto passed = [&](std::size_t i) noexcept {
        return _mm256_loadu_ps(statistics[rows[i]].passed.data());
    };
    const __m256 origin = passed(0);
    __m256 sums[2] = {}, squares[2] = {};
    __m256 least[2] = {origin, origin}, most[2] = {origin, origin};
    const auto add = [&](std::size_t i, int way) noexcept {
        const __m256 here = passed(i);
        const __m256 more = _mm256_sub_ps(here, origin);
        sums[way] = _mm256_add_ps(sums[way], more);
        squares[way] = _mm256_fmadd_ps(more, more, squares[way]);
        least[way] = _mm256_min_ps(least[way], here);
        most[way] = _mm256_max_ps(most[way], here);
    };
    std::size_t i = 0;
    for (; i + 2 <= size; i += 2) {
        add(i, 0);
        add(i + 1, 1);
    }
    if (i < size) add(i, 0);
    Moments moments;
    _mm256_storeu_ps(moments.sums.data(), _mm256_add_ps(sums[0], sums[1]));
    _mm256_storeu_ps(moments.squares.data(), _mm256_add_ps(squares[0], squares[1]));
    _mm256_storeu_ps(moments.least.data(), _mm256_min_ps(least[0], least[1]));
    _mm256_storeu_ps(moments.most.data(), _mm256_max_ps(most[0], most[1]));
    return moments;
}

/// Four rows of a slice, four places apart, with their next four entries each.
__m512i four_rows(const Entry* entries, const std::uint32_t* next) noexcept {
    const auto four = [&](std::size_t row) noexcept {
        return _mm_loadu_si128(reinterpret_cast<const __m128i*>(entries + next[row]));
    };
    __m512i rows = _mm512_castsi128_si512(four(0));
    rows = _mm512_inserti32x4(rows, four(4), 1);
    rows = _mm512_inserti32x4(rows, four(8), 2);
    return _mm512_inserti32x4(rows, four(12), 3);
}

/// What a step takes: columns within the window, and codes; 0 in slots that are not taken.
struct Step {
    __m512i columns;
    __m512i codes;
};

/// Takes a step and tells how far the window moved, in grains; false when nothing was left.
[[gnu::always_inline]] inline bool take_step(SliceCursor& slice, const SellShape& shape, Step& step,
                                             std::uint8_t& advance) noexcept {
    const __m512i low_byte = _mm512_set1_epi16(0xff);
    const __m512i one = _mm512_set1_epi8(1);
    const __m512i width = _mm512_set1_epi32(static_cast<int>(shape.window_columns << 8));
    // Grains are powers of two.
    const auto grain = static_cast<std::uint32_t>(shape.window_grain << 8);
    const int grain_log2 = std::countr_zero(grain);
    __m512i rows[4];
    for (std::size_t i = 0; i < 4; ++i) rows[i] = four_rows(slice.entries, slice.next.data() + i);
    // The first entry that is left, in all elements: numbers stay in vectors, since a window waits
    // for the one before.
    __m512i left =
        _mm512_min_epu32(_mm512_min_epu32(rows[0], rows[1]), _mm512_min_epu32(rows[2], rows[3]));
    left = _mm512_min_epu32(left, _mm512_shuffle_i64x2(left, left, _MM_SHUFFLE(1, 0, 3, 2)));
    left = _mm512_min_epu32(left, _mm512_shuffle_i64x2(left, left, _MM_SHUFFLE(2, 3, 0, 1)));
    left = _mm512_min_epu32(left, _mm512_shuffle_epi32(left, _MM_PERM_BADC));
    left = _mm512_min_epu32(left, _mm512_shuffle_epi32(left, _MM_PERM_CDAB));
    __m512i first = _mm512_and_si512(left, _mm512_set1_epi32(static_cast<int>(0U - grain)));
    const auto left_first =
        static_cast<std::uint32_t>(_mm_cvtsi128_si32(_mm512_castsi512_si128(left)));
    const bool more = left_first != past_end;
    const std::uint32_t moved = more ? (left_first >> grain_log2) - slice.window : 0;
    advance = static_cast<std::uint8_t>(std::min(moved, max_advance));
    slice.window += advance;
    if (!more || moved > max_advance) [[unlikely]] {
        first = _mm512_set1_epi32(static_cast<int>(slice.window * grain));
    }
    for (__m512i& four : rows) {
        const __m512i place = _mm512_sub_epi32(four, first);
        four = _mm512_maskz_mov_epi32(_mm512_cmplt_epu32_mask(place, width), place);
    }
    // Packing goes lane by lane, which puts rows 0 to 3 into the first lane, and so on.
    const __m512i even = _mm512_packus_epi32(rows[0], rows[1]);
    const __m512i odd = _mm512_packus_epi32(rows[2], rows[3]);
    step.columns = _mm512_packus_epi16(_mm512_srli_epi16(even, 8), _mm512_srli_epi16(odd, 8));
    step.codes =
        _mm512_packus_epi16(_mm512_and_si512(even, low_byte), _mm512_and_si512(odd, low_byte));
    // What is taken has a code that is not 0.
    const __m512i next = _mm512_load_si512(slice.next.data());
    _mm512_store_si512(slice.next.data(),
                       _mm512_dpbusd_epi32(next, _mm512_min_epu8(step.codes, one), one));
    return more;
}

/// The first steps of a pair for each slice, then the second ones: within a slice, each step waits
/// for the one before.
void fill_pairs(std::span<SliceCursor> slices, const SellShape& shape, bool nibbles) noexcept {
    std::array<Step, slices_together> firsts;
    for (bool any = true; any;) {
        any = false;
        std::array<bool, slices_together> more;
        for (std::size_t i = 0; i < slices.size(); ++i) {
            SliceCursor& slice = slices[i];
            more[i] = slice.room > 0 && take_step(slice, shape, firsts[i], slice.advances[0]);
            any |= more[i];
        }
        for (std::size_t i = 0; i < slices.size(); ++i) {
            if (!more[i]) continue;
            SliceCursor& slice = slices[i];
            const Step& first = firsts[i];
            Step second;
            (void)take_step(slice, shape, second, slice.advances[1]);
            std::uint8_t* codes = slice.pairs + 2 * step_slots;
            _mm512_storeu_si512(slice.pairs, first.columns);
            _mm512_storeu_si512(slice.pairs + step_slots, second.columns);
            if (nibbles) {
                const __m512i upper = _mm512_slli_epi16(second.codes, 4);
                _mm512_storeu_si512(codes, _mm512_or_si512(first.codes, upper));
            } else {
                _mm512_storeu_si512(codes, first.codes);
                _mm512_storeu_si512(codes + step_slots, second.codes);
            }
            slice.pairs += pair_bytes(nibbles);
            slice.advances += 2;
            --slice.room;
        }
    }
}

}  // namespace

void install_fill_avx512(Kernels& kernels) noexcept {
    kernels.weigh_counts = weigh_counts;
    kernels.moments_of = moments_of;
    kernels.fill_pairs = fill_pairs;
}

}  // namespace tersor::spmm::sell

#include "dispatch/target_end.hpp"

#endif
