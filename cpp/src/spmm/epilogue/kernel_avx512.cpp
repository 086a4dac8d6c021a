// The epilogue of products, sixteen at a time.
#include "dispatch/architecture.hpp"
#include "spmm/epilogue/formulas.hpp"
#include "spmm/epilogue/kernels.hpp"

#if TERSOR_AVX512

#include <immintrin.h>

#include "dispatch/target_avx512.hpp"

#include "spmm/epilogue/exp_avx512.hpp"

namespace tersor::spmm::epilogue {
namespace {

__m512 gelu(__m512 x) noexcept {
    const __m512 one = _mm512_set1_ps(1.0F);
    const __m512 u = _mm512_abs_ps(x);
    const __m512 t = _mm512_div_ps(one, _mm512_fmadd_ps(u, _mm512_set1_ps(tail_scale), one));
    const __m512 power = exp_negative(_mm512_mul_ps(_mm512_mul_ps(u, _mm512_set1_ps(-0.5F)), u));
    const __m512 tail = _mm512_mul_ps(power, polynomial(tail_polynomial, t));
    const __mmask16 negative = _mm512_movepi32_mask(_mm512_castps_si512(x));
    return _mm512_mul_ps(x, _mm512_mask_blend_ps(negative, _mm512_sub_ps(one, tail), tail));
}

__m512 silu(__m512 x) noexcept {
    const __m512 one = _mm512_set1_ps(1.0F);
    const __m512 power = exp_negative(_mm512_sub_ps(_mm512_setzero_ps(), _mm512_abs_ps(x)));
    const __mmask16 negative = _mm512_movepi32_mask(_mm512_castps_si512(x));
    const __m512 above = _mm512_mask_blend_ps(negative, one, power);
    return _mm512_mul_ps(x, _mm512_div_ps(above, _mm512_add_ps(one, power)));
}

/// Of a maximum or minimum with NaN the second operand is the result.
template <Activation activation>
__m512 activate(__m512 x) noexcept {
    if constexpr (activation == Activation::relu) return _mm512_max_ps(_mm512_setzero_ps(), x);
    if constexpr (activation == Activation::relu6) {
        return _mm512_min_ps(_mm512_set1_ps(6.0F), _mm512_max_ps(_mm512_setzero_ps(), x));
    }
    if constexpr (activation == Activation::gelu) return gelu(x);
    if constexpr (activation == Activation::silu) return silu(x);
    return x;
}

__m512 load(const void* from, FloatType type, std::size_t i, __mmask16 valid) noexcept {
    if (type == FloatType::float32) {
        return _mm512_maskz_loadu_ps(valid, static_cast<const float*>(from) + i);
    }
    const __m256i bits =
        _mm256_maskz_loadu_epi16(valid, static_cast<const std::uint16_t*>(from) + i);
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
}

/// To the nearest, ties to even; NaN stays NaN.
__m256i narrow(__m512 x) noexcept {
    const __m512i bits = _mm512_castps_si512(x);
    const __m512i upper = _mm512_srli_epi32(bits, 16);
    const __m512i odd = _mm512_and_si512(upper, _mm512_set1_epi32(1));
    __m512i rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
    rounded = _mm512_srli_epi32(rounded, 16);
    const __mmask16 nan = _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
    return _mm512_cvtepi32_epi16(
        _mm512_mask_or_epi32(rounded, nan, upper, _mm512_set1_epi32(0x40)));
}

void store(void* to, FloatType type, std::size_t i, __mmask16 valid, __m512 values) noexcept {
    if (type == FloatType::float32) {
        _mm512_mask_storeu_ps(static_cast<float*>(to) + i, valid, values);
    } else {
        _mm256_mask_storeu_epi16(static_cast<std::uint16_t*>(to) + i, valid, narrow(values));
    }
}

template <Activation activation>
void apply_as(const float* products, std::size_t size, const Operands& with, void* y,
              FloatType y_type) noexcept {
    for (std::size_t i = 0; i < size; i += 16) {
        const std::size_t left = size - i;
        const auto valid = static_cast<__mmask16>(left < 16 ? (1U << left) - 1 : 0xffffU);
        __m512 values = _mm512_maskz_loadu_ps(valid, products + i);
        if (with.factors != nullptr) {
            const __m512 bias = with.bias != nullptr ? _mm512_maskz_loadu_ps(valid, with.bias + i)
                                                     : _mm512_setzero_ps();
            values = _mm512_fmadd_ps(values, _mm512_maskz_loadu_ps(valid, with.factors + i), bias);
        }
        if (with.residual != nullptr) {
            values = _mm512_add_ps(values, load(with.residual, with.residual_type, i, valid));
        }
        store(y, y_type, i, valid, activate<activation>(values));
    }
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

void install(dispatch::Level<Isa::avx512>, Kernels& kernels) noexcept { kernels.apply = apply; }

}  // namespace tersor::spmm::epilogue

#include "dispatch/target_end.hpp"

#endif
