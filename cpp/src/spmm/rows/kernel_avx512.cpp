// AVX-512: decoding rows, and looking at them.
//
// Bottleneck: vector operations, some 12 for 16 entries that are decoded. Prefix sums of gaps are
// dot products with triangles of ones; codes are counted by bit planes, which a GF(2) product makes
// of eight codes at once (Granite Rapids: .09 ns per non-zero for the statistics, .05 for counting,
// .23 for decoding at 9 %).
#include "dispatch/architecture.hpp"
#include "spmm/rows/kernels.hpp"

#if TERSOR_AVX512

#include <immintrin.h>

#include <algorithm>
#include <cstring>

#include "dispatch/target_avx512.hpp"

namespace tersor::spmm::rows {
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
    const __m512i counted =
        _mm512_srlv_epi32(ones, _mm512_max_epi32(shift, _mm512_setzero_si512()));
    return _mm512_maskz_mov_epi32(_mm512_cmpge_epi32_mask(before, _mm512_setzero_si512()), counted);
}

__m512i broadcast_4(const std::uint8_t* bytes) noexcept {
    // Not _mm_loadu_si32, which GCC before 11.3 loads into the highest lane (GCC bug 99754).
    std::int32_t four = 0;
    std::memcpy(&four, bytes, sizeof four);
    return _mm512_set1_epi32(four);
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
    const auto decode = [&](const std::uint8_t* last_gaps, __m128i code) noexcept {
        __m512i place = ramp;
        for (int part = 0; part < 4; ++part) {
            place = _mm512_dpbusd_epi32(place, broadcast_4(last_gaps + 4 * part), weights[part]);
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
        alignas(16) std::uint8_t last_gaps[16];
        _mm_store_si128(reinterpret_cast<__m128i*>(last_gaps),
                        _mm_maskz_loadu_epi8(valid, gaps + i));
        decode(last_gaps, _mm_maskz_loadu_epi8(valid, codes + i));
    }
    return at;
}

/// Counts, for sets of the four lowest bits of codes, the codes that have all bits of the set. A
/// register holds 32 bits for 8 codes: a byte for each of the four bit planes, of which an AND with
/// itself turned by bytes has the codes with two bits, and so on.
struct BitSets {
    // In byte i: those with bit i; i and i - 1; i and i - 2; i, i - 1 and i - 2; all.
    __m512i sums[5];

    void add(__m512i planes) noexcept {
        const __m512i two_back = _mm512_rol_epi32(planes, 16);
        const __m512i pairs = _mm512_and_si512(planes, _mm512_rol_epi32(planes, 8));
        const __m512i sets[5] = {planes, pairs, _mm512_and_si512(planes, two_back),
                                 _mm512_and_si512(pairs, two_back),
                                 _mm512_and_si512(pairs, _mm512_rol_epi32(pairs, 16))};
        for (int i = 0; i < 5; ++i) {
            sums[i] = _mm512_add_epi8(sums[i], _mm512_popcnt_epi8(sets[i]));
        }
    }

    /// How often each code from 1 to 15 occurs; how often 0 does is wrong.
    [[nodiscard]] __m512i counts() const noexcept {
        // Equal bytes of the 16 parts side by side: sums of eight of them are 64-bit numbers, and
        // sums of all stand in the elements 0, 4, 8 and 12 of 32 bits.
        const __m512i places =
            _mm512_set_epi32(0x3f3b3733, 0x2f2b2723, 0x1f1b1713, 0x0f0b0703, 0x3e3a3632, 0x2e2a2622,
                             0x1e1a1612, 0x0e0a0602, 0x3d393531, 0x2d292521, 0x1d191511, 0x0d090501,
                             0x3c383430, 0x2c282420, 0x1c181410, 0x0c080400);
        __m512i with[5];
        for (int i = 0; i < 5; ++i) {
            const __m512i halves =
                _mm512_sad_epu8(_mm512_permutexvar_epi8(places, sums[i]), _mm512_setzero_si512());
            with[i] = _mm512_add_epi64(halves, _mm512_shuffle_epi32(halves, _MM_PERM_BADC));
        }
        // In the order of the sets: 1, 2, 4, 8 and 9, 3, 6, 12; 5, 10 and 13, 11, 7, 14; 15.
        const __m512i one_or_two =
            _mm512_setr_epi32(0, 0, 4, 20, 8, 0, 24, 0, 12, 16, 0, 0, 28, 0, 0, 0);
        const __m512i two_or_three =
            _mm512_setr_epi32(0, 0, 0, 0, 0, 0, 0, 24, 0, 0, 4, 20, 0, 16, 28, 0);
        __m512i exact = _mm512_permutex2var_epi32(with[0], one_or_two, with[1]);
        exact = _mm512_mask_mov_epi32(exact, 0x6ca0,
                                      _mm512_permutex2var_epi32(with[2], two_or_three, with[3]));
        exact = _mm512_mask_broadcastd_epi32(exact, 0x8000, _mm512_castsi512_si128(with[4]));
        // Those with a bit, taken from those with or without it, leave those without.
        const auto take = [&](__mmask16 without, __m512i turned) noexcept {
            exact = _mm512_mask_sub_epi32(exact, without, exact, turned);
        };
        take(0x5555, _mm512_shuffle_epi32(exact, _MM_PERM_CDAB));
        take(0x3333, _mm512_shuffle_epi32(exact, _MM_PERM_BADC));
        take(0x0f0f, _mm512_shuffle_i64x2(exact, exact, _MM_SHUFFLE(2, 3, 0, 1)));
        take(0x00ff, _mm512_shuffle_i64x2(exact, exact, _MM_SHUFFLE(1, 0, 3, 2)));
        return exact;
    }
};

/// For codes below 16 or, where `high`, below 32.
template <bool high>
void count_few(const std::uint8_t* codes, std::size_t size, std::uint32_t* counts) noexcept {
    constexpr std::size_t block = 31 * 128;  // as many as bytes can count
    const __m512i identity = _mm512_set1_epi64(static_cast<long long>(0x8040201008040201));
    __m512i below_16 = _mm512_setzero_si512();
    __m512i from_16 = _mm512_setzero_si512();
    for (std::size_t from = 0; from < size; from += block) {
        const std::size_t end = std::min(from + block, size);
        BitSets low_codes{}, high_codes{};
        __m512i highs = _mm512_setzero_si512();
        for (std::size_t i = from; i < end; i += 128) {
            const std::size_t left = end - i;
            const __m512i first = _mm512_gf2p8affine_epi64_epi8(
                identity, _mm512_maskz_loadu_epi8(first_bits(left), codes + i), 0);
            const __m512i second = _mm512_gf2p8affine_epi64_epi8(
                identity,
                _mm512_maskz_loadu_epi8(first_bits(left < 64 ? 0 : left - 64), codes + i + 64), 0);
            const __m512i planes = _mm512_mask_shuffle_epi32(first, 0xaaaa, second, _MM_PERM_CCAA);
            if constexpr (high) {
                const __m512i fifth =
                    _mm512_mask_shuffle_epi32(second, 0x5555, first, _MM_PERM_DDBB);
                const __m512i spread = _mm512_set4_epi32(0x0c0c0c0c, 0x08080808, 0x04040404, 0);
                const __m512i has = _mm512_shuffle_epi8(fifth, spread);
                high_codes.add(_mm512_and_si512(planes, has));
                low_codes.add(_mm512_andnot_si512(has, planes));
                highs = _mm512_add_epi32(highs, _mm512_popcnt_epi32(fifth));
            } else {
                low_codes.add(planes);
            }
        }
        below_16 = _mm512_add_epi32(below_16, low_codes.counts());
        if constexpr (high) {
            const __m512i counted = _mm512_maskz_mov_epi32(0xfffe, high_codes.counts());
            const int all = _mm512_reduce_add_epi32(highs) - _mm512_reduce_add_epi32(counted);
            from_16 = _mm512_add_epi32(from_16, _mm512_mask_set1_epi32(counted, 1, all));
        }
    }
    _mm512_storeu_si512(counts, below_16);
    if constexpr (high) _mm512_storeu_si512(counts + 16, from_16);
}

void count_codes(const std::uint8_t* codes, std::size_t size, std::size_t values,
                 std::uint32_t* counts) noexcept {
    if (values <= 16) return count_few<false>(codes, size, counts);
    if (values <= 32) return count_few<true>(codes, size, counts);
    count_codes_by_table(codes, size, values, counts);
}

bool row_statistics(const std::uint8_t* gaps, const std::uint8_t* codes, std::size_t size,
                    std::uint32_t column, const RowRules& rules,
                    RowStatistics& statistics) noexcept {
    const __m256i eighths = _mm256_setr_epi32(1, 2, 3, 4, 5, 6, 7, 8);
    const __m256i marks = _mm256_srli_epi32(
        _mm256_mullo_epi32(eighths, _mm256_set1_epi32(static_cast<int>(rules.cols))), 3);
    const __m512i zero = _mm512_setzero_si512();
    const __m512i filler_gap = _mm512_set1_epi8(static_cast<char>((1 << rules.index_bits) - 1));
    __m256 passed = _mm256_setzero_ps();
    __m512i largest = zero, faults = zero;
    std::size_t nonzeros = 0;
    std::uint64_t total = 0;
    // Between the ends of a chunk, non-zeros are taken to be spread evenly.
    constexpr std::size_t vector = 64;
    const std::size_t chunk = size > 8 * vector ? 2 * vector : vector;
    for (std::size_t i = 0; i < size; i += chunk) {
        __m512i gap_sums = zero;
        std::size_t more = 0;
        for (std::size_t at = i; at < i + chunk; at += vector) {
            const __mmask64 valid = first_bits(at < size ? size - at : 0);
            const __m512i gap = _mm512_maskz_loadu_epi8(valid, gaps + at);
            const __m512i code = _mm512_maskz_loadu_epi8(valid, codes + at);
            // A gap is at most the filler's, and a filler's is just that.
            const __mmask64 filler = _mm512_mask_testn_epi8_mask(valid, code, code);
            faults = _mm512_or_si512(faults, _mm512_subs_epu8(gap, filler_gap));
            faults =
                _mm512_mask_max_epu8(faults, filler, faults, _mm512_xor_si512(gap, filler_gap));
            largest = _mm512_max_epu8(largest, code);
            gap_sums = _mm512_add_epi64(gap_sums, _mm512_sad_epu8(gap, zero));
            more += static_cast<std::size_t>(_mm_popcnt_u64(valid & ~filler));
        }
        const auto advance = static_cast<std::uint32_t>(_mm512_reduce_add_epi64(gap_sums)) +
                             static_cast<std::uint32_t>(std::min(size - i, chunk));
        const __m256i ahead = _mm256_sub_epi32(marks, _mm256_set1_epi32(static_cast<int>(column)));
        const float slope = static_cast<float>(more) / static_cast<float>(advance);
        const __m256 here = _mm256_fmadd_ps(_mm256_cvtepi32_ps(ahead), _mm256_set1_ps(slope),
                                            _mm256_set1_ps(static_cast<float>(nonzeros)));
        const __mmask8 reached = _mm256_cmpge_epi32_mask(ahead, _mm256_setzero_si256());
        passed = _mm256_mask_mov_ps(passed, reached, here);
        nonzeros += more;
        column += advance;
        total += advance;
    }
    passed = _mm256_min_ps(passed, _mm256_set1_ps(static_cast<float>(nonzeros)));
    _mm256_storeu_ps(statistics.passed.data(), passed);
    statistics.passed[RowStatistics::marks - 1] = static_cast<float>(nonzeros);
    const __m512i past = _mm512_set1_epi8(static_cast<char>(rules.values - 1));
    faults = _mm512_or_si512(faults, _mm512_subs_epu8(largest, past));
    return _mm512_test_epi8_mask(faults, faults) == 0 && total <= rules.cols &&
           (size == 0 || codes[size - 1] != 0);
}

}  // namespace

void install(dispatch::Level<Isa::avx512>, Kernels& kernels) noexcept {
    kernels = {decode_entries, count_codes, row_statistics};
}

}  // namespace tersor::spmm::rows

#include "dispatch/target_end.hpp"

#endif
