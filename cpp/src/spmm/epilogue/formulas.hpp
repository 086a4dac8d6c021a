// The constants of the vectorised activations: minimax polynomials, fitted by Lawson's iteration.
#pragma once

#include <array>

namespace tersor::spmm {

/// exp(r) for |r| <= log(2) / 2, constant term first; relative error 2e-9.
inline constexpr std::array exp_polynomial = {1.0F,         1.0F,          0.49999991F,  0.1666642F,
                                              0.041668233F, 0.0083748987F, 0.0013836737F};

/// log(2) in two parts, of which the first has few digits: n times it is exact.
inline constexpr float log2_high = 0.693359375F;
inline constexpr float log2_low = -2.12194440e-4F;
inline constexpr float log2_e = 1.44269504F;

/// Below this exp is 0 in fp32, denormal numbers included.
inline constexpr float exp_floor = -110.0F;

/// The tail of the normal distribution: for u >= 0 and t = 1 / (1 + tail_scale * u),
/// 1 - Phi(u) = exp(-u^2 / 2) * polynomial(t); relative error 4e-8.
inline constexpr float tail_scale = 0.282842712F;
inline constexpr std::array tail_polynomial = {
    9.377116e-6F,  0.11261898F, 0.11500432F,   0.09197777F,  0.1245002F,
    -0.015342984F, 0.11437613F, -0.013677679F, -0.04531247F, 0.015846366F};

}  // namespace tersor::spmm
