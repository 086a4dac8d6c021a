// Direct sparse convolution with a compressed filter bank.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "tersor/spmm.hpp"

namespace tersor::conv {

/// One value per spatial axis: height, width.
struct Pair {
    std::uint32_t h = 1;
    std::uint32_t w = 1;
};

/// As torch.nn.Conv2d, zero padding only.
struct Geometry {
    std::uint32_t in_channels = 1;
    std::uint32_t groups = 1;  // divides in_channels and the rows of the filter matrix
    Pair input{0, 0};          // height, width of the images
    Pair kernel{1, 1};
    Pair stride{1, 1};
    Pair padding{0, 0};
    Pair dilation{1, 1};
};

/// Height and width of the output. Throws std::invalid_argument when a parameter is 0 where it may
/// not be, or the dilated kernel is larger than the padded input.
[[nodiscard]] Pair output_size(const Geometry& geometry);

/// y = activation(conv(x, W) + bias + residual) for x [batch, in_channels, H, W] and y [batch,
/// out_channels, H', W']. `filters` is packed from the matrix [out_channels, in_channels / groups *
/// kernel.h * kernel.w]. x and the residual do not overlap y. Throws std::invalid_argument when a
/// view or the matrix does not fit the geometry.
void convolve(const PackedMatrix& filters, const Geometry& geometry, FloatView x, std::size_t batch,
              const Epilogue& epilogue, FloatSpan y, Precision precision = Precision::high,
              int threads = 1);

/// The same in fp32 with no more than a bias.
void convolve(const PackedMatrix& filters, const Geometry& geometry, std::span<const float> x,
              std::size_t batch, std::span<const float> bias, std::span<float> y,
              Precision precision = Precision::high, int threads = 1);

}  // namespace tersor::conv
