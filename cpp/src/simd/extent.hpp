// What is read and written at once: a register, or its first elements at the end of a row. Included
// inside a target region, after its simd_<isa>.hpp.
#pragma once

#include <cstddef>
#include <cstdint>

namespace tersor::simd {
namespace {  // NOLINT(google-build-namespaces): compiled anew for each level

struct Whole {
    F32 load(const float* from) const noexcept { return simd::load(from); }
    F32 load(const std::uint16_t* from) const noexcept { return load_bfloat16(from); }
    void store(float* to, F32 x) const noexcept { simd::store(to, x); }
    void store(std::uint16_t* to, F32 x) const noexcept { store_bfloat16(to, x); }
};

struct Part {
    std::size_t n;

    F32 load(const float* from) const noexcept { return load_part(from, n); }
    F32 load(const std::uint16_t* from) const noexcept { return load_bfloat16_part(from, n); }
    void store(float* to, F32 x) const noexcept { store_part(to, x, n); }
    void store(std::uint16_t* to, F32 x) const noexcept { store_bfloat16_part(to, x, n); }
};

/// Calls `function(i, extent)` for each register of `size` elements.
template <class Function>
void for_each_register(std::size_t size, const Function& function) noexcept {
    std::size_t i = 0;
    for (; i + width <= size; i += width) function(i, Whole{});
    if (i < size) function(i, Part{size - i});
}

}  // namespace
}  // namespace tersor::simd
