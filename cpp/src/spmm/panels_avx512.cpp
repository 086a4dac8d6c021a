// AVX-512: one entry of a panel block against 16, 32 or 64 vectors, and transposition.
#include "dispatch/architecture.hpp"
#include "spmm/kernels.hpp"
#include "spmm/panels.hpp"

#if TERSOR_AVX512

#include <immintrin.h>

#include <cstring>

#include "dispatch/target_avx512.hpp"

namespace tersor::spmm {
namespace {

template <int registers>
struct Sums {
    __m512 chains[panel_chains][registers];

    void clear() noexcept {
        for (auto& chain : chains) {
            for (__m512& sum : chain) sum = _mm512_setzero_ps();
        }
    }
    void add(int chain, unsigned entry, const float* codebook, const float* panel) noexcept {
        const __m512 w = _mm512_set1_ps(codebook[entry & 0xff]);
        const float* x = panel + std::size_t{entry >> 8} * (16 * registers);
        for (int i = 0; i < registers; ++i) {
            chains[chain][i] = _mm512_fmadd_ps(w, _mm512_load_ps(x + 16 * i), chains[chain][i]);
        }
    }
    void add_to(float* sums) const noexcept {
        for (int i = 0; i < registers; ++i) {
            const __m512 sum = _mm512_add_ps(chains[0][i], chains[1][i]);
            _mm512_store_ps(sums + 16 * i, _mm512_add_ps(_mm512_load_ps(sums + 16 * i), sum));
        }
    }
};

/// Entries are loaded four at a time: scalar loads would take the place of the panel's.
template <int registers>
void block(const std::uint16_t* at, const std::uint16_t* end, const float* codebook,
           const float* panel, float* sums) noexcept {
    while (at != end) {
        const std::size_t count = at[0];
        const std::size_t rows = at[1];
        at += 2;
        for (std::size_t r = 0; r < rows; ++r) {
            float* row_sums = sums + std::size_t{*at++} * (16 * registers);
            _mm_prefetch(reinterpret_cast<const char*>(at + 256), _MM_HINT_T0);
            Sums<registers> sum;
            sum.clear();
            std::size_t left = count;
            for (; left >= 4; left -= 4, at += 4) {
                std::uint64_t four;
                std::memcpy(&four, at, sizeof four);
                for (int i = 0; i < 4; ++i) {
                    sum.add(i % 2, static_cast<unsigned>(four >> (16 * i) & 0xffff), codebook,
                            panel);
                }
            }
            if ((left & 2) != 0) {
                sum.add(0, at[0], codebook, panel);
                sum.add(1, at[1], codebook, panel);
                at += 2;
            }
            if ((left & 1) != 0) sum.add(0, *at++, codebook, panel);
            sum.add_to(row_sums);
        }
    }
}

void multiply_panel_block(const std::uint16_t* begin, const std::uint16_t* end,
                          const float* codebook, const float* panel, std::size_t lanes,
                          float* sums) noexcept {
    const auto run = lanes == 16 ? block<1> : lanes == 32 ? block<2> : block<4>;
    run(begin, end, codebook, panel, sums);
}

/// 16 x 16, from registers to registers: pairs, then groups of four inside the quarters of the
/// registers, then the quarters.
void transpose_registers(__m512 (&r)[16]) noexcept {
    __m512 t[16];
    for (int i = 0; i < 8; ++i) {
        t[2 * i] = _mm512_unpacklo_ps(r[2 * i], r[2 * i + 1]);
        t[2 * i + 1] = _mm512_unpackhi_ps(r[2 * i], r[2 * i + 1]);
    }
    for (int i = 0; i < 4; ++i) {
        for (int k = 0; k < 2; ++k) {
            const __m512d a = _mm512_castps_pd(t[4 * i + k]);
            const __m512d b = _mm512_castps_pd(t[4 * i + 2 + k]);
            r[4 * i + 2 * k] = _mm512_castpd_ps(_mm512_unpacklo_pd(a, b));
            r[4 * i + 2 * k + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(a, b));
        }
    }
    for (int i = 0; i < 4; ++i) {
        for (int k = 0; k < 2; ++k) {
            t[8 * k + i] = _mm512_shuffle_f32x4(r[8 * k + i], r[8 * k + 4 + i], 0x88);
            t[8 * k + 4 + i] = _mm512_shuffle_f32x4(r[8 * k + i], r[8 * k + 4 + i], 0xdd);
        }
    }
    for (int i = 0; i < 4; ++i) {
        r[i] = _mm512_shuffle_f32x4(t[i], t[8 + i], 0x88);
        r[8 + i] = _mm512_shuffle_f32x4(t[i], t[8 + i], 0xdd);
        r[4 + i] = _mm512_shuffle_f32x4(t[4 + i], t[12 + i], 0x88);
        r[12 + i] = _mm512_shuffle_f32x4(t[4 + i], t[12 + i], 0xdd);
    }
}

void transpose(const float* from, std::size_t from_stride, std::size_t rows, std::size_t cols,
               float* to, std::size_t to_stride) noexcept {
    for (std::size_t r = 0; r < rows; r += 16) {
        const std::size_t row_count = rows - r < 16 ? rows - r : 16;
        const auto row_mask = static_cast<__mmask16>((1U << row_count) - 1);
        for (std::size_t c = 0; c < cols; c += 16) {
            const std::size_t col_count = cols - c < 16 ? cols - c : 16;
            const auto col_mask = static_cast<__mmask16>((1U << col_count) - 1);
            __m512 registers[16];
            for (std::size_t i = 0; i < 16; ++i) {
                registers[i] = i < row_count ? _mm512_maskz_loadu_ps(
                                                   col_mask, from + (r + i) * from_stride + c)
                                             : _mm512_setzero_ps();
            }
            transpose_registers(registers);
            for (std::size_t i = 0; i < col_count; ++i) {
                _mm512_mask_storeu_ps(to + (c + i) * to_stride + r, row_mask, registers[i]);
            }
        }
    }
}

/// Byte 16 j + 4 q + t of a column holds vector 16 q + 4 j + t: the unpacking below leaves the
/// vectors 16 q to 16 q + 15 in its register q.
void interleave_digits(const std::uint8_t* digits, std::size_t stride, std::size_t columns,
                       std::uint8_t* panel) noexcept {
    const auto row = [&](std::size_t vector, std::size_t column) {
        return _mm512_loadu_si512(digits + vector * stride + column);
    };
    for (std::size_t c = 0; c < columns; c += 64) {
        for (std::size_t part = 0; part < 4; ++part) {  // columns c + 16 i + 4 part + t
            __m512 groups[16];
            for (std::size_t g = 0; g < 16; ++g) {
                const std::size_t v = 16 * (g % 4) + 4 * (g / 4);
                const __m512i a = row(v, c), b = row(v + 1, c);
                const __m512i d = row(v + 2, c), e = row(v + 3, c);
                const bool upper = part >= 2;
                const __m512i ab = upper ? _mm512_unpackhi_epi8(a, b) : _mm512_unpacklo_epi8(a, b);
                const __m512i de = upper ? _mm512_unpackhi_epi8(d, e) : _mm512_unpacklo_epi8(d, e);
                groups[g] = _mm512_castsi512_ps(part % 2 == 0 ? _mm512_unpacklo_epi16(ab, de)
                                                              : _mm512_unpackhi_epi16(ab, de));
            }
            transpose_registers(groups);
            for (std::size_t i = 0; i < 16; ++i) {
                const std::size_t column = c + i / 4 * 16 + 4 * part + i % 4;
                _mm512_store_ps(reinterpret_cast<float*>(panel + column * digit_lanes), groups[i]);
            }
        }
    }
}

void multiply_digit_block(const std::uint16_t* at, const std::uint16_t* end,
                          const std::uint8_t* panel, std::int32_t* sums) noexcept {
    while (at != end) {
        const std::size_t count = at[0];
        const std::size_t rows = at[1];
        at += 2;
        for (std::size_t r = 0; r < rows; ++r) {
            std::int32_t* row_sums = sums + std::size_t{*at++} * digit_lanes;
            _mm_prefetch(reinterpret_cast<const char*>(at + 256), _MM_HINT_T0);
            __m512i sum[4];
            for (int q = 0; q < 4; ++q) sum[q] = _mm512_load_si512(row_sums + 16 * q);
            for (std::size_t i = 0; i < count; i += 4, at += 4) {
                std::uint64_t four;
                std::memcpy(&four, at, sizeof four);
                const auto column = [&](int k) {
                    const std::size_t number = four >> (16 * k + 8) & 0xff;
                    return _mm512_load_si512(panel + number * digit_lanes);
                };
                const __m512i a = column(0), b = column(1), c = column(2), d = column(3);
                const __m512i w =
                    _mm512_set1_epi32(static_cast<int>(_pext_u64(four, 0x00ff00ff00ff00ffU)));
                const __m512i ab_low = _mm512_unpacklo_epi8(a, b);
                const __m512i ab_high = _mm512_unpackhi_epi8(a, b);
                const __m512i cd_low = _mm512_unpacklo_epi8(c, d);
                const __m512i cd_high = _mm512_unpackhi_epi8(c, d);
                sum[0] = _mm512_dpbusd_epi32(sum[0], _mm512_unpacklo_epi16(ab_low, cd_low), w);
                sum[1] = _mm512_dpbusd_epi32(sum[1], _mm512_unpackhi_epi16(ab_low, cd_low), w);
                sum[2] = _mm512_dpbusd_epi32(sum[2], _mm512_unpacklo_epi16(ab_high, cd_high), w);
                sum[3] = _mm512_dpbusd_epi32(sum[3], _mm512_unpackhi_epi16(ab_high, cd_high), w);
            }
            for (int q = 0; q < 4; ++q) _mm512_store_si512(row_sums + 16 * q, sum[q]);
        }
    }
}

void scale_digit_sums(const std::int32_t* sums, std::size_t rows, const float* units,
                      const float* lows, const float* row_sums, const float* bias,
                      float* y) noexcept {
    for (std::size_t r = 0; r < rows; ++r) {
        const __m512 row_sum = _mm512_set1_ps(row_sums[r]);
        const __m512 offset = _mm512_set1_ps(bias == nullptr ? 0.0F : bias[r]);
        for (std::size_t lane = 0; lane < digit_lanes; lane += 16) {
            const __m512 sum = _mm512_cvtepi32_ps(_mm512_load_si512(sums + r * digit_lanes + lane));
            const __m512 low = _mm512_fmadd_ps(_mm512_loadu_ps(lows + lane), row_sum, offset);
            _mm512_store_ps(y + r * digit_lanes + lane,
                            _mm512_fmadd_ps(sum, _mm512_loadu_ps(units + lane), low));
        }
    }
}

}  // namespace

void install_panels_avx512(Kernels& kernels) noexcept {
    kernels.multiply_panel_block = multiply_panel_block;
    kernels.transpose = transpose;
    kernels.interleave_digits = interleave_digits;
    kernels.multiply_digit_block = multiply_digit_block;
    kernels.scale_digit_sums = scale_digit_sums;
}

}  // namespace tersor::spmm

#include "dispatch/target_end.hpp"

#else

namespace tersor::spmm {
void install_panels_avx512(Kernels&) noexcept {}
}  // namespace tersor::spmm

#endif
