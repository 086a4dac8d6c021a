// Products: one activation vector goes to the gathering kernel, a batch goes in panels of 32.
#include <algorithm>
#include <stdexcept>
#include <string>
#include <vector>

#include "spmm/kernels.hpp"
#include "tersor/parallel.hpp"
#include "tersor/spmm.hpp"

namespace tersor::spmm {
namespace {

constexpr std::size_t row_grain = 64;

/// Work below which a second thread costs more than it brings, in non-zeros times activations.
constexpr std::size_t parallel_from = 1U << 15;

int worthwhile_threads(const PackedMatrix& packed, std::size_t batch, int threads) noexcept {
    return packed.nonzeros() * batch < parallel_from ? 1 : threads;
}

void multiply_one(const PackedMatrix::Layout& layout, const float* x, std::span<const float> bias,
                  float* y, int threads) {
    const Kernels& kernel = kernels(layout.isa);
    parallel_for(layout.rows, row_grain, threads, [&](std::size_t begin, std::size_t end) noexcept {
        for (std::size_t r = begin; r < end; ++r) y[r] = bias.empty() ? 0.0F : bias[r];
        for (std::size_t b = 0; b < layout.blocks.size(); ++b) {
            kernel.multiply_vector(layout.view(b), x + b * block_columns, y, begin, end);
        }
    });
}

void multiply_batch(const PackedMatrix::Layout& layout, const float* x, std::size_t batch,
                    std::span<const float> bias, float* y, int threads) {
    const Kernels& kernel = kernels(layout.isa);
    const std::size_t cols = layout.cols;
    const std::size_t rows = layout.rows;
    support::AlignedBuffer<float> panel(cols * panel_lanes);
    support::AlignedBuffer<float> sums(rows * panel_lanes);
    std::vector<std::size_t> offsets(std::min<std::size_t>(cols, block_columns));
    for (std::size_t k = 0; k < offsets.size(); ++k) offsets[k] = k * panel_lanes;

    for (std::size_t first = 0; first < batch; first += panel_lanes) {
        const std::size_t lanes = std::min(panel_lanes, batch - first);
        parallel_for(cols, row_grain, threads, [&](std::size_t begin, std::size_t end) noexcept {
            for (std::size_t lane = 0; lane < lanes; ++lane) {
                const float* source = x + (first + lane) * cols;
                for (std::size_t k = begin; k < end; ++k) {
                    panel[k * panel_lanes + lane] = source[k];
                }
            }
        });
        parallel_for(rows, row_grain, threads, [&](std::size_t begin, std::size_t end) noexcept {
            for (std::size_t r = begin; r < end; ++r) {
                std::fill_n(sums.data() + r * panel_lanes, panel_lanes,
                            bias.empty() ? 0.0F : bias[r]);
            }
            for (std::size_t b = 0; b < layout.blocks.size(); ++b) {
                kernel.multiply_panel(layout.view(b),
                                      panel.data() + b * block_columns * panel_lanes,
                                      offsets.data(), sums.data(), panel_lanes, begin, end);
            }
            for (std::size_t lane = 0; lane < lanes; ++lane) {
                float* target = y + (first + lane) * rows;
                for (std::size_t r = begin; r < end; ++r) {
                    target[r] = sums[r * panel_lanes + lane];
                }
            }
        });
    }
}

void check_size(std::size_t size, std::size_t expected, const char* what) {
    if (size != expected) {
        throw std::invalid_argument(std::string("multiply: ") + what + " has " +
                                    std::to_string(size) + " elements, expected " +
                                    std::to_string(expected));
    }
}

}  // namespace

void multiply(const PackedMatrix& packed, std::span<const float> x, std::size_t batch,
              std::span<const float> bias, std::span<float> y, Precision /*every class is met*/,
              int threads) {
    check_size(x.size(), batch * packed.cols(), "x");
    check_size(y.size(), batch * packed.rows(), "y");
    if (!bias.empty()) check_size(bias.size(), packed.rows(), "bias");
    if (batch == 0 || packed.rows() == 0) return;
    threads = worthwhile_threads(packed, batch, threads);
    // Two or three vectors in a panel of 32 lanes would waste most of it.
    constexpr std::size_t panel_from = 4;
    if (batch >= panel_from) {
        multiply_batch(packed.layout(), x.data(), batch, bias, y.data(), threads);
        return;
    }
    for (std::size_t n = 0; n < batch; ++n) {
        multiply_one(packed.layout(), x.data() + n * packed.cols(), bias,
                     y.data() + n * packed.rows(), threads);
    }
}

}  // namespace tersor::spmm
