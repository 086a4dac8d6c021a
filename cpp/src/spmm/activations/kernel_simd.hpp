// Activations in fixed point and transposition, a register at a time: each level includes this file
// inside its target region, after its simd.hpp. Bound by reading x.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "simd/extent.hpp"
#include "spmm/activations/kernels.hpp"
#include "spmm/sell/layout.hpp"

namespace tersor::spmm::activations {
namespace {  // NOLINT(google-build-namespaces): compiled anew for each level

using simd::F32;
using simd::I32;
using simd::width;

inline Range range_of(const float* x, std::size_t size) noexcept {
    const I32 magnitude = simd::splat_int(0x7fffffff);
    F32 low = simd::zero();
    F32 high = simd::zero();
    I32 largest = simd::splat_int(0);
    const auto add = [&](F32 v) noexcept {
        low = simd::min(low, v);
        high = simd::max(high, v);
        largest = simd::max_int(largest, simd::both(simd::bits(v), magnitude));
    };
    std::size_t k = 0;
    for (; k + width <= size; k += width) add(simd::load(x + k));
    if (k < size) add(simd::load_part(x + k, size - k));
    constexpr std::int32_t infinity = 0x7f800000;
    return {simd::least(low), simd::largest(high), simd::largest_int(largest) < infinity};
}

/// Limbs of `bits` bits. What lies between the last activation and the end of its register is
/// multiplied with weights that are 0.
template <int count, int bits>
void split(const float* x, std::size_t size, float low, float scale, std::uint8_t* limbs,
           std::size_t stride) noexcept {
    const F32 origin = simd::splat(low);
    const F32 factor = simd::splat(scale);
    const auto store = [&](F32 v, std::uint8_t* to) noexcept {
        const I32 fixed = simd::to_int((v - origin) * factor);
        for (int p = 0; p < count; ++p, to += stride) {
            I32 limb = simd::shift_right(fixed, bits * p);
            if constexpr (bits < 8) limb = simd::both(limb, simd::splat_int((1 << bits) - 1));
            simd::store_low_bytes(to, limb);
        }
    };
    std::size_t k = 0;
    for (; k + width <= size; k += width) store(simd::load(x + k), limbs + k);
    if (k < size) store(simd::load_part(x + k, size - k), limbs + k);
}

template <int bits>
void split_activations(const float* x, std::size_t size, float low, float scale, int count,
                       std::uint8_t* limbs, std::size_t stride) noexcept {
    if (count == 1) split<1, bits>(x, size, low, scale, limbs, stride);
    if (count == 2) split<2, bits>(x, size, low, scale, limbs, stride);
    if (count == 3) split<3, bits>(x, size, low, scale, limbs, stride);
}

/// Of up to width x width numbers, by way of registers.
inline void transpose_square(const float* from, std::size_t from_stride, std::size_t rows,
                             std::size_t cols, float* to, std::size_t to_stride) noexcept {
    F32 registers[width];
    const bool whole = rows == width && cols == width;
    for (std::size_t i = 0; i < width; ++i) {
        registers[i] = whole      ? simd::load(from + i * from_stride)
                       : i < rows ? simd::load_part(from + i * from_stride, cols)
                                  : simd::zero();
    }
    simd::transpose(registers);
    for (std::size_t i = 0; i < cols; ++i) {
        if (whole) {
            simd::store(to + i * to_stride, registers[i]);
        } else {
            simd::store_part(to + i * to_stride, registers[i], rows);
        }
    }
}

/// Along the longer side, so that `width` streams are read or written from end to end. Those that
/// are written, whose lines would each be waited for, are fetched ahead.
inline void transpose(const float* from, std::size_t from_stride, std::size_t rows,
                      std::size_t cols, float* to, std::size_t to_stride) noexcept {
    constexpr std::size_t floats_ahead = 64;
    const auto square = [&](std::size_t r, std::size_t c) {
        for (std::size_t i = 0; rows >= cols && i < width; ++i) {
            __builtin_prefetch(to + (c + i) * to_stride + r + floats_ahead, 1);
        }
        transpose_square(from + r * from_stride + c, from_stride, std::min(width, rows - r),
                         std::min(width, cols - c), to + c * to_stride + r, to_stride);
    };
    if (rows < cols) {
        for (std::size_t r = 0; r < rows; r += width) {
            for (std::size_t c = 0; c < cols; c += width) square(r, c);
        }
    } else {
        for (std::size_t c = 0; c < cols; c += width) {
            for (std::size_t r = 0; r < rows; r += width) square(r, c);
        }
    }
}

inline void scale(const void* x, FloatType type, const float* factors, std::size_t size,
                  float* to) noexcept {
    simd::for_each_register(size, [&](std::size_t i, auto extent) noexcept {
        const F32 v = type == FloatType::float32
                          ? extent.load(static_cast<const float*>(x) + i)
                          : extent.load(static_cast<const std::uint16_t*>(x) + i);
        extent.store(to + i, v * extent.load(factors + i));
    });
}

}  // namespace
}  // namespace tersor::spmm::activations
