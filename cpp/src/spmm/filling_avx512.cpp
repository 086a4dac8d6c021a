// AVX-512: decoding rows, and filling the sliding layout.
#include "dispatch/architecture.hpp"
#include "spmm/kernels.hpp"

#if TERSOR_AVX512

#include <immintrin.h>

#include <algorithm>

#include "dispatch/target_avx512.hpp"

namespace tersor::spmm {
namespace {

std::uint64_t first_bits(std::size_t count) noexcept {
    return _bzhi_u64(~std::uint64_t{0}, static_cast<unsigned>(std::min<std::size_t>(count, 64)));
}

/// weights[i] has ones for the first i + 1 of four bytes, as far as these are the `part`-th four of
/// sixteen: a dot product with them adds up what stands before and at i.
__m512i running_weights(int part) noexcept {
    const __m512i ramp = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    const __m512i before = _mm512_sub_epi32(ramp, _mm512_set1_epi32(4 * part));
    const __m512i ones = _mm512_set1_epi32(0x01010101);
    // Three bytes less 8 bits for each of the four places; none before the first.
    const __m512i shift = _mm512_sub_epi32(_mm512_set1_epi32(24), _mm512_slli_epi32(before, 3));
    const __m512i some = _mm512_srlv_epi32(ones, _mm512_max_epi32(shift, _mm512_setzero_si512()));
    return _mm512_maskz_mov_epi32(_mm512_cmpge_epi32_mask(before, _mm512_setzero_si512()), some);
}

__m512i broadcast_4(const std::uint8_t* bytes) noexcept {
    return _mm512_broadcastd_epi32(_mm_loadu_si32(bytes));
}

std::size_t decode_entries(const std::uint8_t* gaps, const std::uint8_t* codes, std::size_t size,
                           std::uint32_t column, Entry* entries) noexcept {
    static_assert(read_slack >= 16);
    const __m512i ramp = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    const __m512i last = _mm512_set1_epi32(15);
    const __m512i weights[4] = {running_weights(0), running_weights(1), running_weights(2),
                                running_weights(3)};
    // A code in the upper byte of 32 bits.
    const __m512i upper = _mm512_slli_epi32(ramp, 24);
    __m512i base = _mm512_set1_epi32(static_cast<int>(column));
    std::size_t at = 0;
    const auto decode = [&](const std::uint8_t* some_gaps, __m128i code) noexcept {
        __m512i place = ramp;
        for (int part = 0; part < 4; ++part) {
            place = _mm512_dpbusd_epi32(place, broadcast_4(some_gaps + 4 * part), weights[part]);
        }
        const __m512i columns = _mm512_add_epi32(place, base);
        base = _mm512_add_epi32(
            base, _mm512_add_epi32(_mm512_permutexvar_epi32(last, place), _mm512_set1_epi32(1)));
        const __m512i code_above =
            _mm512_maskz_permutexvar_epi8(0x8888888888888888, upper, _mm512_castsi128_si512(code));
        const __m512i entry = _mm512_shldi_epi32(columns, code_above, 8);
        const __mmask16 kept = _mm_test_epi8_mask(code, code);
        _mm512_storeu_si512(entries + at, _mm512_maskz_compress_epi32(kept, entry));
        at += static_cast<std::size_t>(_mm_popcnt_u32(kept));
    };
    std::size_t i = 0;
    for (; i + 16 <= size; i += 16) {
        decode(gaps + i, _mm_loadu_si128(reinterpret_cast<const __m128i*>(codes + i)));
    }
    if (i < size) {
        const auto valid = static_cast<__mmask16>(first_bits(size - i));
        alignas(16) std::uint8_t some_gaps[16];
        _mm_store_si128(reinterpret_cast<__m128i*>(some_gaps),
                        _mm_maskz_loadu_epi8(valid, gaps + i));
        decode(some_gaps, _mm_maskz_loadu_epi8(valid, codes + i));
    }
    return at;
}

void count_codes(const std::uint8_t* codes, std::size_t size, std::size_t values,
                 std::uint32_t* counts) noexcept {
    std::fill_n(counts, values, 0U);
    if (values > 32) {
        // Equal codes in a row wait for each other less in two tables.
        alignas(64) std::uint32_t odd[256] = {};
        std::size_t i = 0;
        for (; i + 2 <= size; i += 2) {
            ++counts[codes[i]];
            ++odd[codes[i + 1]];
        }
        if (i < size) ++counts[codes[i]];
        for (std::size_t c = 0; c < values; ++c) counts[c] += odd[c];
        return;
    }
    for (std::size_t i = 0; i < size; i += 64) {
        const __m512i some = _mm512_maskz_loadu_epi8(first_bits(size - i), codes + i);
        for (std::size_t c = 1; c < values; ++c) {
            const __m512i code = _mm512_set1_epi8(static_cast<char>(c));
            counts[c] +=
                static_cast<std::uint32_t>(_mm_popcnt_u64(_mm512_cmpeq_epi8_mask(some, code)));
        }
    }
}

RowFacts survey_row(const std::uint8_t* gaps, const std::uint8_t* codes, std::size_t size,
                    std::uint32_t column, std::uint32_t cols) noexcept {
    alignas(32) std::int32_t mark_columns[RowFacts::marks];
    for (std::size_t m = 0; m < RowFacts::marks; ++m) {
        mark_columns[m] = static_cast<std::int32_t>(mark_column(m, cols));
    }
    const __m256i marks = _mm256_load_si256(reinterpret_cast<const __m256i*>(mark_columns));
    __m256 passed = _mm256_setzero_ps();
    std::size_t nonzeros = 0;
    // Between the ends of 64 entries, non-zeros are taken to be spread evenly.
    for (std::size_t i = 0; i < size; i += 64) {
        const __mmask64 valid = first_bits(size - i);
        const __m512i gap = _mm512_maskz_loadu_epi8(valid, gaps + i);
        const __m512i code = _mm512_maskz_loadu_epi8(valid, codes + i);
        const auto advance = static_cast<std::uint32_t>(_mm512_reduce_add_epi64(
                                 _mm512_sad_epu8(gap, _mm512_setzero_si512()))) +
                             static_cast<std::uint32_t>(_mm_popcnt_u64(valid));
        const auto more =
            static_cast<std::size_t>(_mm_popcnt_u64(_mm512_test_epi8_mask(code, code)));
        const __m256i ahead = _mm256_sub_epi32(marks, _mm256_set1_epi32(static_cast<int>(column)));
        const float slope = static_cast<float>(more) / static_cast<float>(advance);
        const __m256 here = _mm256_fmadd_ps(_mm256_cvtepi32_ps(ahead), _mm256_set1_ps(slope),
                                            _mm256_set1_ps(static_cast<float>(nonzeros)));
        const __mmask8 reached = _mm256_cmpge_epi32_mask(ahead, _mm256_setzero_si256());
        passed = _mm256_mask_mov_ps(passed, reached, here);
        nonzeros += more;
        column += advance;
    }
    passed = _mm256_min_ps(passed, _mm256_set1_ps(static_cast<float>(nonzeros)));
    RowFacts facts;
    _mm256_storeu_ps(facts.passed.data(), passed);
    facts.passed[RowFacts::marks - 1] = static_cast<float>(nonzeros);
    return facts;
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

struct Step {
    __m512i columns;  // 0 in slots that are not taken, as are the codes
    __m512i codes;
    bool empty;  // nothing was left
};

Step take_step(SliceCursor& slice, const SlidingShape& shape, std::uint8_t& advance) noexcept {
    const __m512i low_byte = _mm512_set1_epi16(0xff);
    const __m512i one = _mm512_set1_epi8(1);
    const __m512i width = _mm512_set1_epi32(static_cast<int>(shape.window_columns << 8));
    __m512i rows[4];
    for (std::size_t i = 0; i < 4; ++i) rows[i] = four_rows(slice.entries, slice.next.data() + i);
    const Entry left = _mm512_reduce_min_epu32(
        _mm512_min_epu32(_mm512_min_epu32(rows[0], rows[1]), _mm512_min_epu32(rows[2], rows[3])));
    const std::uint32_t wanted = left == past_end ? slice.window : (left >> 8) / shape.window_grain;
    const std::uint32_t moved = std::min(wanted - slice.window, max_advance);
    slice.window += moved;
    advance = static_cast<std::uint8_t>(moved);
    const __m512i first =
        _mm512_set1_epi32(static_cast<int>(slice.window * shape.window_grain << 8));
    for (__m512i& four : rows) {
        const __m512i place = _mm512_sub_epi32(four, first);
        four = _mm512_maskz_mov_epi32(_mm512_cmplt_epu32_mask(place, width), place);
    }
    // Packing goes lane by lane, which puts rows 0 to 3 into the first lane, and so on.
    const __m512i even = _mm512_packus_epi32(rows[0], rows[1]);
    const __m512i odd = _mm512_packus_epi32(rows[2], rows[3]);
    const Step step{
        _mm512_packus_epi16(_mm512_srli_epi16(even, 8), _mm512_srli_epi16(odd, 8)),
        _mm512_packus_epi16(_mm512_and_si512(even, low_byte), _mm512_and_si512(odd, low_byte)),
        left == past_end};
    // What is taken has a code that is not 0.
    const __m512i next = _mm512_load_si512(slice.next.data());
    _mm512_store_si512(slice.next.data(),
                       _mm512_dpbusd_epi32(next, _mm512_min_epu8(step.codes, one), one));
    return step;
}

/// Makes a pair; false when nothing is left or there is no room.
bool fill_pair(SliceCursor& slice, const SlidingShape& shape, bool nibbles) noexcept {
    if (slice.room == 0) return false;
    const Step first = take_step(slice, shape, slice.advances[0]);
    if (first.empty) return false;
    const Step second = take_step(slice, shape, slice.advances[1]);
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
    return true;
}

/// In turns: in each slice a step waits for the one before.
void fill_pairs(std::span<SliceCursor> slices, const SlidingShape& shape, bool nibbles) noexcept {
    for (bool more = true; more;) {
        more = false;
        for (SliceCursor& slice : slices) more |= fill_pair(slice, shape, nibbles);
    }
}

}  // namespace

void install_filling_avx512(Kernels& kernels) noexcept {
    kernels.decode_entries = decode_entries;
    kernels.count_codes = count_codes;
    kernels.survey_row = survey_row;
    kernels.fill_pairs = fill_pairs;
}

}  // namespace tersor::spmm

#include "dispatch/target_end.hpp"

#else

namespace tersor::spmm {
void install_filling_avx512(Kernels&) noexcept {}
}  // namespace tersor::spmm

#endif
