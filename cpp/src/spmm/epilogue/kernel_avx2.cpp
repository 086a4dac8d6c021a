// The epilogue of products, eight at a time.
#include "dispatch/architecture.hpp"
#include "spmm/epilogue/formulas.hpp"
#include "spmm/epilogue/kernels.hpp"

#if TERSOR_X86

#include <immintrin.h>

#include <cstring>

#include "dispatch/target_avx2.hpp"

#include "spmm/epilogue/exp_avx2.hpp"

namespace tersor::spmm::epilogue {
namespace {

constexpr std::size_t lanes = 8;

__m256 magnitude(__m256 x) noexcept { return _mm256_andnot_ps(_mm256_set1_ps(-0.0F), x); }

__m256 gelu(__m256 x) noexcept {
    const __m256 one = _mm256_set1_ps(1.0F);
    const __m256 u = magnitude(x);
    const __m256 t = _mm256_div_ps(one, _mm256_fmadd_ps(u, _mm256_set1_ps(tail_scale), one));
    const __m256 power = exp_negative(_mm256_mul_ps(_mm256_mul_ps(u, _mm256_set1_ps(-0.5F)), u));
    const __m256 tail = _mm256_mul_ps(power, polynomial(tail_polynomial, t));
    return _mm256_mul_ps(x, _mm256_blendv_ps(_mm256_sub_ps(one, tail), tail, x));
}

__m256 silu(__m256 x) noexcept {
    const __m256 one = _mm256_set1_ps(1.0F);
    const __m256 power = exp_negative(_mm256_or_ps(_mm256_set1_ps(-0.0F), x));
    const __m256 above = _mm256_blendv_ps(one, power, x);
    return _mm256_mul_ps(x, _mm256_div_ps(above, _mm256_add_ps(one, power)));
}

/// Of a maximum or minimum with NaN the second operand is the result.
template <Activation activation>
__m256 activate(__m256 x) noexcept {
    if constexpr (activation == Activation::relu) return _mm256_max_ps(_mm256_setzero_ps(), x);
    if constexpr (activation == Activation::relu6) {
        return _mm256_min_ps(_mm256_set1_ps(6.0F), _mm256_max_ps(_mm256_setzero_ps(), x));
    }
    if constexpr (activation == Activation::gelu) return gelu(x);
    if constexpr (activation == Activation::silu) return silu(x);
    return x;
}

__m256 load(const void* from, FloatType type, std::size_t i) noexcept {
    if (type == FloatType::float32) return _mm256_loadu_ps(static_cast<const float*>(from) + i);
    const auto* bits = static_cast<const std::uint16_t*>(from) + i;
    const __m128i read = _mm_loadu_si128(reinterpret_cast<const __m128i*>(bits));
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(read), 16));
}

/// To the nearest, ties to even; NaN stays NaN.
__m128i narrow(__m256 x) noexcept {
    const __m256i bits = _mm256_castps_si256(x);
    const __m256i upper = _mm256_srli_epi32(bits, 16);
    const __m256i odd = _mm256_and_si256(upper, _mm256_set1_epi32(1));
    __m256i rounded = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
    rounded = _mm256_srli_epi32(rounded, 16);
    const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
    const __m256i quiet = _mm256_or_si256(upper, _mm256_set1_epi32(0x40));
    const __m256i chosen = _mm256_blendv_epi8(rounded, quiet, nan);
    return _mm_packus_epi32(_mm256_castsi256_si128(chosen), _mm256_extracti128_si256(chosen, 1));
}

void store(void* to, FloatType type, std::size_t i, __m256 values) noexcept {
    if (type == FloatType::float32) {
        _mm256_storeu_ps(static_cast<float*>(to) + i, values);
    } else {
        auto* bits = static_cast<std::uint16_t*>(to) + i;
        _mm_storeu_si128(reinterpret_cast<__m128i*>(bits), narrow(values));
    }
}

template <Activation activation>
void apply_at(const float* products, std::size_t i, const Operands& with, void* y,
              FloatType y_type) noexcept {
    __m256 values = _mm256_loadu_ps(products + i);
    if (with.factors != nullptr) {
        const __m256 bias =
            with.bias != nullptr ? _mm256_loadu_ps(with.bias + i) : _mm256_setzero_ps();
        values = _mm256_fmadd_ps(values, _mm256_loadu_ps(with.factors + i), bias);
    }
    if (with.residual != nullptr) {
        values = _mm256_add_ps(values, load(with.residual, with.residual_type, i));
    }
    store(y, y_type, i, activate<activation>(values));
}

constexpr std::size_t bytes_of(FloatType type) noexcept {
    return type == FloatType::float32 ? sizeof(float) : sizeof(std::uint16_t);
}

template <Activation activation>
void apply_as(const float* products, std::size_t size, const Operands& with, void* y,
              FloatType y_type) noexcept {
    std::size_t i = 0;
    for (; i + lanes <= size; i += lanes) {
        apply_at<activation>(products, i, with, y, y_type);
    }
    if (i == size) return;
    // The rest, by way of whole registers of its own.
    float last[4][lanes] = {};
    float last_y[lanes];
    const auto rest_of = [&](const void* from, FloatType type, float* to) -> const float* {
        if (from == nullptr) return nullptr;
        const std::size_t width = bytes_of(type);
        std::memcpy(to, static_cast<const char*>(from) + i * width, (size - i) * width);
        return to;
    };
    const Operands rest{rest_of(with.factors, FloatType::float32, last[1]),
                        rest_of(with.bias, FloatType::float32, last[2]),
                        rest_of(with.residual, with.residual_type, last[3]), with.residual_type};
    apply_at<activation>(rest_of(products, FloatType::float32, last[0]), 0, rest, last_y, y_type);
    const std::size_t width = bytes_of(y_type);
    std::memcpy(static_cast<char*>(y) + i * width, last_y, (size - i) * width);
}

void apply(const float* products, std::size_t size, Activation activation, const Operands& with,
           void* y, FloatType y_type) noexcept {
    const auto run = [&](auto kernel) { kernel(products, size, with, y, y_type); };
    switch (activation) {
        case Activation::none: return run(apply_as<Activation::none>);
        case Activation::relu: return run(apply_as<Activation::relu>);
        case Activation::relu6: return run(apply_as<Activation::relu6>);
        case Activation::gelu: return run(apply_as<Activation::gelu>);
        case Activation::silu: return run(apply_as<Activation::silu>);
    }
}

}  // namespace

void install(dispatch::Level<Isa::avx2>, Kernels& kernels) noexcept { kernels.apply = apply; }

}  // namespace tersor::spmm::epilogue

#include "dispatch/target_end.hpp"

#endif
