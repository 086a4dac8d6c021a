// The gates, sixteen at a time.
#include "dispatch/architecture.hpp"
#include "recurrent/kernels.hpp"
#include "spmm/epilogue/formulas.hpp"

#if TERSOR_AVX512

#include <immintrin.h>

#include <iterator>

#include "dispatch/target_avx512.hpp"

#include "spmm/epilogue/exp_avx512.hpp"

namespace tersor::recurrent {
namespace {

using spmm::epilogue::exp_negative;

constexpr std::size_t lanes = 16;

__mmask16 first(std::size_t count) noexcept {
    return static_cast<__mmask16>(count < lanes ? (1U << count) - 1 : 0xffffU);
}

__m512 load(const float* from, std::size_t count) noexcept {
    return _mm512_maskz_loadu_ps(first(count), from);
}
void store(float* to, std::size_t count, __m512 values) noexcept {
    _mm512_mask_storeu_ps(to, first(count), values);
}

__m512 with_sign_bit(__m512 x) noexcept { return _mm512_or_ps(x, _mm512_set1_ps(-0.0F)); }

/// far with the sign of x; NaN where x is.
__m512 with_sign_of(__m512 x, __m512 far) noexcept {
    const __m512 sign = _mm512_and_ps(x, _mm512_set1_ps(-0.0F));
    const __mmask16 nan = _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
    return _mm512_mask_mov_ps(_mm512_or_ps(far, sign), nan, x);
}

/// `b` where x is negative, else `a`; NaN where x is.
__m512 where_negative(__m512 x, __m512 a, __m512 b) noexcept {
    const __m512 chosen = _mm512_mask_blend_ps(_mm512_movepi32_mask(_mm512_castps_si512(x)), a, b);
    return _mm512_mask_mov_ps(chosen, _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q), x);
}

/// `b` where |x| is so small that the series serves, else `a`.
__m512 where_small(__m512 x, __m512 a, __m512 b) noexcept {
    const __mmask16 small =
        _mm512_cmp_ps_mask(_mm512_abs_ps(x), _mm512_set1_ps(tanh_series_below), _CMP_LT_OQ);
    return _mm512_mask_blend_ps(small, a, b);
}

/// 1 / (1 + exp(-x)), from exp(-|x|), which does not overflow.
__m512 sigmoid(__m512 x) noexcept {
    const __m512 one = _mm512_set1_ps(1.0F);
    const __m512 power = exp_negative(with_sign_bit(x));
    return _mm512_div_ps(where_negative(x, one, power), _mm512_add_ps(one, power));
}

__m512 tanh_of(__m512 x) noexcept {
    const __m512 one = _mm512_set1_ps(1.0F);
    const __m512 negative = with_sign_bit(x);  // -|x|
    const __m512 power = exp_negative(_mm512_add_ps(negative, negative));
    const __m512 far = _mm512_div_ps(_mm512_sub_ps(one, power), _mm512_add_ps(one, power));
    const __m512 square = _mm512_mul_ps(x, x);
    __m512 sum = _mm512_set1_ps(tanh_series[std::size(tanh_series) - 1]);
    for (std::size_t i = std::size(tanh_series) - 1; i-- > 0;) {
        sum = _mm512_fmadd_ps(sum, square, _mm512_set1_ps(tanh_series[i]));
    }
    return where_small(x, with_sign_of(x, far), _mm512_mul_ps(sum, x));
}

/// Calls `function(i, count)` for whole registers, and for the rest with the number of its lanes.
template <class Function>
void for_each_register(std::size_t size, const Function& function) noexcept {
    for (std::size_t i = 0; i < size; i += lanes) {
        function(i, size - i < lanes ? size - i : lanes);
    }
}

void lstm(const float* gates, std::size_t size, float* c, float* h) noexcept {
    for_each_register(size, [&](std::size_t i, std::size_t count) noexcept {
        const __m512 in = sigmoid(load(gates + i, count));
        const __m512 forget = sigmoid(load(gates + size + i, count));
        const __m512 cell = tanh_of(load(gates + 2 * size + i, count));
        const __m512 out = sigmoid(load(gates + 3 * size + i, count));
        const __m512 state = _mm512_fmadd_ps(forget, load(c + i, count), _mm512_mul_ps(in, cell));
        store(c + i, count, state);
        store(h + i, count, _mm512_mul_ps(out, tanh_of(state)));
    });
}

void gru(const float* x, const float* y, std::size_t size, float* h) noexcept {
    for_each_register(size, [&](std::size_t i, std::size_t count) noexcept {
        const auto sum = [&](std::size_t gate) noexcept {
            const std::size_t at = gate * size + i;
            return _mm512_add_ps(load(x + at, count), load(y + at, count));
        };
        const __m512 reset = sigmoid(sum(0));
        const __m512 update = sigmoid(sum(1));
        const std::size_t last = 2 * size + i;
        const __m512 fresh =
            tanh_of(_mm512_fmadd_ps(reset, load(y + last, count), load(x + last, count)));
        const __m512 before = load(h + i, count);
        store(h + i, count, _mm512_fmadd_ps(update, _mm512_sub_ps(before, fresh), fresh));
    });
}

void tanh(const float* gate, std::size_t size, float* h) noexcept {
    for_each_register(size, [&](std::size_t i, std::size_t count) noexcept {
        store(h + i, count, tanh_of(load(gate + i, count)));
    });
}

}  // namespace

void install(dispatch::Level<Isa::avx512>, Kernels& kernels) noexcept {
    kernels = {lstm, gru, tanh};
}

}  // namespace tersor::recurrent

#include "dispatch/target_end.hpp"

#endif
