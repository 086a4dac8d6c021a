// One entry of a panel block against 16, 32 or 64 vectors, for levels with sixteen registers or
// thirty-two short ones: each includes this file inside its target region, after its simd.hpp.
//
// A broadcast, and a load and a multiply-add for each register of lanes: bound by the two load
// ports. Rows take turns between two sums, as an addition waits for the one before.
#pragma once

#include <cstddef>
#include <cstdint>

#include "spmm/panels/kernels.hpp"

namespace tersor::spmm::panels {
namespace {  // NOLINT(google-build-namespaces): compiled anew for each level

using simd::F32;
using simd::width;

/// Numbers of the stream that are fetched ahead.
constexpr std::size_t prefetch_distance = 256;

template <int registers>
void add(F32 (&sums)[registers], unsigned entry, const float* codebook, const float* panel,
         std::size_t lanes) noexcept {
    const F32 w = simd::splat(codebook[entry & 0xff]);
    const float* x = panel + std::size_t{entry >> 8} * lanes;
#pragma GCC unroll 8
    for (int i = 0; i < registers; ++i) {
        sums[i] = simd::fma(w, simd::load(x + width * static_cast<std::size_t>(i)), sums[i]);
    }
}

/// `registers` of the registers that the lanes fill, beginning at panel[0] and sums[0].
template <int registers>
void multiply_lanes(const std::uint16_t* at, const std::uint16_t* end, const float* codebook,
                    const float* panel, std::size_t lanes, float* sums) noexcept {
    while (at != end) {
        const std::size_t count = at[0];
        const std::size_t rows = at[1];
        at += 2;
        for (std::size_t r = 0; r < rows; ++r) {
            float* row_sums = sums + std::size_t{*at++} * lanes;
            __builtin_prefetch(at + prefetch_distance);
            F32 even[registers], odd[registers];
            for (int i = 0; i < registers; ++i) even[i] = odd[i] = simd::zero();
            std::size_t left = count;
            for (; left >= 2; left -= 2, at += 2) {
                add(even, at[0], codebook, panel, lanes);
                add(odd, at[1], codebook, panel, lanes);
            }
            if (left != 0) add(even, *at++, codebook, panel, lanes);
            for (int i = 0; i < registers; ++i) {
                float* to = row_sums + width * static_cast<std::size_t>(i);
                simd::store(to, simd::load(to) + (even[i] + odd[i]));
            }
        }
    }
}

inline void multiply_block(const std::uint16_t* begin, const std::uint16_t* end,
                           const float* codebook, const float* panel, std::size_t lanes,
                           float* sums) noexcept {
    constexpr int half = 16 / width;
    if (lanes == 16) multiply_lanes<half>(begin, end, codebook, panel, lanes, sums);
    // The two sums of 32 lanes are as many as stay in registers.
    for (std::size_t lane = 0; lane + 32 <= lanes; lane += 32) {
        multiply_lanes<2 * half>(begin, end, codebook, panel + lane, lanes, sums + lane);
    }
}

}  // namespace
}  // namespace tersor::spmm::panels
