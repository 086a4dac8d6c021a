// The gates, eight at a time.
#include "dispatch/architecture.hpp"
#include "recurrent/kernels.hpp"
#include "spmm/epilogue/formulas.hpp"

#if TERSOR_X86

#include <immintrin.h>

#include <cstring>
#include <iterator>

#include "dispatch/target_avx2.hpp"

#include "spmm/epilogue/exp_avx2.hpp"

namespace tersor::recurrent {
namespace {

using spmm::epilogue::exp_negative;

constexpr std::size_t lanes = 8;

__m256 load(const float* from, std::size_t count) noexcept {
    if (count == lanes) return _mm256_loadu_ps(from);
    float padded[lanes] = {};
    std::memcpy(padded, from, count * sizeof(float));
    return _mm256_loadu_ps(padded);
}
void store(float* to, std::size_t count, __m256 values) noexcept {
    if (count == lanes) return _mm256_storeu_ps(to, values);
    float padded[lanes];
    _mm256_storeu_ps(padded, values);
    std::memcpy(to, padded, count * sizeof(float));
}

__m256 with_sign_bit(__m256 x) noexcept { return _mm256_or_ps(x, _mm256_set1_ps(-0.0F)); }

__m256 nan_of(__m256 x, __m256 otherwise) noexcept {
    return _mm256_blendv_ps(otherwise, x, _mm256_cmp_ps(x, x, _CMP_UNORD_Q));
}

/// far with the sign of x; NaN where x is.
__m256 with_sign_of(__m256 x, __m256 far) noexcept {
    const __m256 sign = _mm256_and_ps(x, _mm256_set1_ps(-0.0F));
    return nan_of(x, _mm256_or_ps(far, sign));
}

/// `b` where x is negative, else `a`; NaN where x is.
__m256 where_negative(__m256 x, __m256 a, __m256 b) noexcept {
    return nan_of(x, _mm256_blendv_ps(a, b, x));
}

/// `b` where |x| is so small that the series serves, else `a`.
__m256 where_small(__m256 x, __m256 a, __m256 b) noexcept {
    const __m256 magnitude = _mm256_andnot_ps(_mm256_set1_ps(-0.0F), x);
    const __m256 small = _mm256_cmp_ps(magnitude, _mm256_set1_ps(tanh_series_below), _CMP_LT_OQ);
    return _mm256_blendv_ps(a, b, small);
}

/// 1 / (1 + exp(-x)), from exp(-|x|), which does not overflow.
__m256 sigmoid(__m256 x) noexcept {
    const __m256 one = _mm256_set1_ps(1.0F);
    const __m256 power = exp_negative(with_sign_bit(x));
    return _mm256_div_ps(where_negative(x, one, power), _mm256_add_ps(one, power));
}

__m256 tanh_of(__m256 x) noexcept {
    const __m256 one = _mm256_set1_ps(1.0F);
    const __m256 negative = with_sign_bit(x);  // -|x|
    const __m256 power = exp_negative(_mm256_add_ps(negative, negative));
    const __m256 far = _mm256_div_ps(_mm256_sub_ps(one, power), _mm256_add_ps(one, power));
    const __m256 square = _mm256_mul_ps(x, x);
    __m256 sum = _mm256_set1_ps(tanh_series[std::size(tanh_series) - 1]);
    for (std::size_t i = std::size(tanh_series) - 1; i-- > 0;) {
        sum = _mm256_fmadd_ps(sum, square, _mm256_set1_ps(tanh_series[i]));
    }
    return where_small(x, with_sign_of(x, far), _mm256_mul_ps(sum, x));
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
        const __m256 in = sigmoid(load(gates + i, count));
        const __m256 forget = sigmoid(load(gates + size + i, count));
        const __m256 cell = tanh_of(load(gates + 2 * size + i, count));
        const __m256 out = sigmoid(load(gates + 3 * size + i, count));
        const __m256 state = _mm256_fmadd_ps(forget, load(c + i, count), _mm256_mul_ps(in, cell));
        store(c + i, count, state);
        store(h + i, count, _mm256_mul_ps(out, tanh_of(state)));
    });
}

void gru(const float* x, const float* y, std::size_t size, float* h) noexcept {
    for_each_register(size, [&](std::size_t i, std::size_t count) noexcept {
        const auto sum = [&](std::size_t gate) noexcept {
            const std::size_t at = gate * size + i;
            return _mm256_add_ps(load(x + at, count), load(y + at, count));
        };
        const __m256 reset = sigmoid(sum(0));
        const __m256 update = sigmoid(sum(1));
        const std::size_t last = 2 * size + i;
        const __m256 fresh =
            tanh_of(_mm256_fmadd_ps(reset, load(y + last, count), load(x + last, count)));
        const __m256 before = load(h + i, count);
        store(h + i, count, _mm256_fmadd_ps(update, _mm256_sub_ps(before, fresh), fresh));
    });
}

void tanh(const float* gate, std::size_t size, float* h) noexcept {
    for_each_register(size, [&](std::size_t i, std::size_t count) noexcept {
        store(h + i, count, tanh_of(load(gate + i, count)));
    });
}

}  // namespace

void install(dispatch::Level<Isa::avx2>, Kernels& kernels) noexcept { kernels = {lstm, gru, tanh}; }

}  // namespace tersor::recurrent

#include "dispatch/target_end.hpp"

#endif
