// Portable: one entry of a panel block against all vectors, in loops that a compiler vectorises.
#include "spmm/panels/kernels.hpp"
#include "spmm/panels/layout.hpp"

namespace tersor::spmm::panels {
namespace {

template <std::size_t lanes>
void block(const std::uint16_t* at, const std::uint16_t* end, const float* codebook,
           const float* panel, float* sums) noexcept {
    while (at != end) {
        const std::size_t count = at[0];
        const std::size_t rows = at[1];
        at += 2;
        for (std::size_t r = 0; r < rows; ++r) {
            float* row_sums = sums + std::size_t{*at++} * lanes;
            float chains[panel_chains][lanes] = {};
            for (std::size_t i = 0; i < count; ++i, ++at) {
                const float w = codebook[*at & 0xff];
                const float* x = panel + std::size_t{*at} / 256 * lanes;
                float* chain = chains[i % panel_chains];
                for (std::size_t lane = 0; lane < lanes; ++lane) chain[lane] += w * x[lane];
            }
            for (std::size_t lane = 0; lane < lanes; ++lane) {
                row_sums[lane] += chains[0][lane] + chains[1][lane];
            }
        }
    }
}

void multiply_block(const std::uint16_t* begin, const std::uint16_t* end, const float* codebook,
                    const float* panel, std::size_t lanes, float* sums) noexcept {
    const auto run = lanes == 16 ? block<16> : lanes == 32 ? block<32> : block<64>;
    run(begin, end, codebook, panel, sums);
}

}  // namespace

void install(dispatch::Level<Isa::scalar>, Kernels& kernels) noexcept {
    kernels.multiply_block = multiply_block;
}

}  // namespace tersor::spmm::panels
