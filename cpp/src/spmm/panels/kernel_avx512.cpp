// AVX-512: one entry of a panel block against 16, 32 or 64 vectors.
//
// Bottleneck: the two load ports. 64 vectors take a broadcast and four multiply-adds with memory
// operands, 3.75 cycles on Granite Rapids and 4.5 on Zen 4: .059 and .07 cycles per non-zero and
// vector, of which products reach .084 and .107. Entries are loaded four at a time and rows taken
// two at a time, so that neither scalar loads nor waiting for an addition stand in between.
#include "dispatch/architecture.hpp"
#include "spmm/panels/kernels.hpp"
#include "spmm/panels/layout.hpp"

#if TERSOR_AVX512

#include "simd/simd_avx512.hpp"

namespace tersor::spmm::panels {
namespace {

/// The sums of a row, or one of the two of a long one.
template <int registers>
struct Sums {
    __m512 sums[registers];

    void clear() noexcept {
#pragma GCC unroll 4
        for (__m512& sum : sums) sum = _mm512_setzero_ps();
    }
    void add(unsigned entry, const float* codebook, const float* panel) noexcept {
        const __m512 w = _mm512_set1_ps(codebook[entry & 0xff]);
        const auto* x = reinterpret_cast<const float*>(reinterpret_cast<const char*>(panel) +
                                                       (entry & 0xff00) * registers / 4);
        // In a register: with an index, a multiply-add and its load are two operations.
        __asm__("" : "+r"(x));
#pragma GCC unroll 4
        for (int i = 0; i < registers; ++i) {
            sums[i] = _mm512_fmadd_ps(w, _mm512_load_ps(x + 16 * i), sums[i]);
        }
    }
    void add(const Sums& other) noexcept {
#pragma GCC unroll 4
        for (int i = 0; i < registers; ++i) sums[i] = _mm512_add_ps(sums[i], other.sums[i]);
    }
    void add_to(float* target) const noexcept {
#pragma GCC unroll 4
        for (int i = 0; i < registers; ++i) {
            _mm512_store_ps(target + 16 * i,
                            _mm512_add_ps(_mm512_load_ps(target + 16 * i), sums[i]));
        }
    }
};

/// Entries are loaded four at a time: scalar loads would take the place of the panel's.
std::uint64_t four_entries(const std::uint16_t* at) noexcept {
    std::uint64_t four;
    std::memcpy(&four, at, sizeof four);
    return four;
}
unsigned entry_of(std::uint64_t four, int i) noexcept {
    return static_cast<unsigned>(four >> (16 * i) & 0xffff);
}

/// One row in two chains: an addition waits for the one before in its chain.
template <int registers>
[[gnu::always_inline]] inline const std::uint16_t* one_row(const std::uint16_t* at,
                                                           std::size_t count, const float* codebook,
                                                           const float* panel,
                                                           float* sums) noexcept {
    float* target = sums + std::size_t{*at++} * (16 * registers);
    Sums<registers> chains[panel_chains];
    for (auto& chain : chains) chain.clear();
    for (; count >= 4; count -= 4, at += 4) {
        const std::uint64_t four = four_entries(at);
#pragma GCC unroll 4
        for (int i = 0; i < 4; ++i) chains[i % 2].add(entry_of(four, i), codebook, panel);
    }
    if ((count & 2) != 0) {
        chains[0].add(at[0], codebook, panel);
        chains[1].add(at[1], codebook, panel);
        at += 2;
    }
    if ((count & 1) != 0) chains[0].add(*at++, codebook, panel);
    chains[0].add(chains[1]);
    chains[0].add_to(target);
    return at;
}

/// Two rows side by side, each in one chain.
template <int registers>
[[gnu::always_inline]] inline const std::uint16_t* two_rows(const std::uint16_t* at,
                                                            std::size_t count,
                                                            const float* codebook,
                                                            const float* panel,
                                                            float* sums) noexcept {
    const std::uint16_t* next = at + count + 1;
    float* target = sums + std::size_t{*at++} * (16 * registers);
    float* next_target = sums + std::size_t{*next++} * (16 * registers);
    Sums<registers> row, next_row;
    row.clear();
    next_row.clear();
    for (; count >= 4; count -= 4, at += 4, next += 4) {
        const std::uint64_t four = four_entries(at);
        const std::uint64_t next_four = four_entries(next);
#pragma GCC unroll 4
        for (int i = 0; i < 4; ++i) {
            row.add(entry_of(four, i), codebook, panel);
            next_row.add(entry_of(next_four, i), codebook, panel);
        }
    }
    for (; count > 0; --count) {
        row.add(*at++, codebook, panel);
        next_row.add(*next++, codebook, panel);
    }
    row.add_to(target);
    next_row.add_to(next_target);
    return next;
}

template <int registers>
void block(const std::uint16_t* at, const std::uint16_t* end, const float* codebook,
           const float* panel, float* sums) noexcept {
    while (at != end) {
        const std::size_t count = at[0];
        std::size_t rows = at[1];
        at += 2;
        for (; rows >= 2 && count <= one_chain_entries; rows -= 2) {
            _mm_prefetch(reinterpret_cast<const char*>(at + 256), _MM_HINT_T0);
            at = two_rows<registers>(at, count, codebook, panel, sums);
        }
        for (; rows > 0; --rows) {
            _mm_prefetch(reinterpret_cast<const char*>(at + 256), _MM_HINT_T0);
            at = one_row<registers>(at, count, codebook, panel, sums);
        }
    }
}

void multiply_block(const std::uint16_t* begin, const std::uint16_t* end, const float* codebook,
                    const float* panel, std::size_t lanes, float* sums) noexcept {
    const auto run = lanes == 16 ? block<1> : lanes == 32 ? block<2> : block<4>;
    run(begin, end, codebook, panel, sums);
}

/// Byte 16 j + 4 q + t of a column holds vector 16 q + 4 j + t: the unpacking below leaves the
/// vectors 16 q to 16 q + 15 in its register q.
void interleave_limbs(const std::uint8_t* limbs, std::size_t stride, std::size_t columns,
                      std::uint8_t* panel) noexcept {
    const auto row = [&](std::size_t vector, std::size_t column) {
        return _mm512_loadu_si512(limbs + vector * stride + column);
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
            simd::transpose(groups);
            for (std::size_t i = 0; i < 16; ++i) {
                const std::size_t column = c + i / 4 * 16 + 4 * part + i % 4;
                _mm512_store_ps(reinterpret_cast<float*>(panel + column * limb_lanes), groups[i]);
            }
        }
    }
}

void multiply_limb_block(const std::uint16_t* at, const std::uint16_t* end,
                         const std::uint8_t* panel, std::int32_t* sums) noexcept {
    while (at != end) {
        const std::size_t count = at[0];
        const std::size_t rows = at[1];
        at += 2;
        for (std::size_t r = 0; r < rows; ++r) {
            std::int32_t* row_sums = sums + std::size_t{*at++} * limb_lanes;
            _mm_prefetch(reinterpret_cast<const char*>(at + 256), _MM_HINT_T0);
            __m512i sum[4];
            for (int q = 0; q < 4; ++q) sum[q] = _mm512_load_si512(row_sums + 16 * q);
            for (std::size_t i = 0; i < count; i += 4, at += 4) {
                std::uint64_t four;
                std::memcpy(&four, at, sizeof four);
                const auto column = [&](int k) {
                    const std::size_t number = four >> (16 * k + 8) & 0xff;
                    return _mm512_load_si512(panel + number * limb_lanes);
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

void scale_limb_sums(const std::int32_t* sums, std::size_t rows, const float* units,
                     const float* lows, const float* row_sums, const float* bias,
                     float* y) noexcept {
    for (std::size_t r = 0; r < rows; ++r) {
        const __m512 row_sum = _mm512_set1_ps(row_sums[r]);
        const __m512 offset = _mm512_set1_ps(bias == nullptr ? 0.0F : bias[r]);
        for (std::size_t lane = 0; lane < limb_lanes; lane += 16) {
            const __m512 sum = _mm512_cvtepi32_ps(_mm512_load_si512(sums + r * limb_lanes + lane));
            const __m512 low = _mm512_fmadd_ps(_mm512_loadu_ps(lows + lane), row_sum, offset);
            _mm512_store_ps(y + r * limb_lanes + lane,
                            _mm512_fmadd_ps(sum, _mm512_loadu_ps(units + lane), low));
        }
    }
}

}  // namespace

void install(dispatch::Level<Isa::avx512>, Kernels& kernels) noexcept {
    kernels = {multiply_block, interleave_limbs, multiply_limb_block, scale_limb_sums};
}

}  // namespace tersor::spmm::panels

#include "dispatch/target_end.hpp"

#endif
