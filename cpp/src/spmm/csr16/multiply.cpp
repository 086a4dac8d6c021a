#include "spmm/csr16/multiply.hpp"

#include <algorithm>
#include <vector>

#include "spmm/activations/kernels.hpp"
#include "spmm/csr16/kernels.hpp"
#include "spmm/not_finite.hpp"
#include "spmm/split_work.hpp"
#include "support/scratch.hpp"
#include "tersor/parallel.hpp"

namespace tersor::spmm {
namespace {

using csr16::panel_lanes;

constexpr std::size_t row_grain = 64;

}  // namespace

void gather_rows(const PackedMatrix::Layout& layout, const float* x, const Outputs& out,
                 int threads) {
    const csr16::Kernels& kernel = csr16::kernels(layout.isa);
    const Csr16& csr16 = layout.csr16();
    float* y = out.products;
    parallel_for(layout.rows, row_grain, threads, [&](std::size_t begin, std::size_t end) {
        for (std::size_t r = begin; r < end; ++r) y[r] = out.bias.empty() ? 0.0F : out.bias[r];
        for (std::size_t b = 0; b < csr16.blocks.size(); ++b) {
            const BlockView block = layout.view(csr16, b);
            kernel.multiply_vector(block, x + block.first_column, y, begin, end);
        }
    });
}

void multiply_gathering(const PackedMatrix::Layout& layout, const float* x, const Outputs& out,
                        int threads) {
    gather_rows(layout, x, out, threads);
    NotFinite(layout, x, 1).spread(0, 0, layout.rows, out.products);
    out.apply_epilogue(0, 0, layout.rows);
}

void multiply_csr16(const PackedMatrix::Layout& layout, const float* x, std::size_t batch,
                    const Outputs& out, int threads) {
    const csr16::Kernels& kernel = csr16::kernels(layout.isa);
    const activations::Transpose transpose = activations::kernels(layout.isa).transpose;
    const Csr16& csr16 = layout.csr16();
    const std::size_t cols = layout.cols;
    const RowTiles tiles{layout.rows, row_grain};
    const support::Scratch<std::size_t> offsets(std::min<std::size_t>(cols, block_columns));
    for (std::size_t k = 0; k < offsets.size(); ++k) offsets[k] = k * panel_lanes;
    std::vector<VectorGroup> groups;
    for (std::size_t first = 0; first < batch; first += panel_lanes) {
        groups.push_back(
            {first, std::min(panel_lanes, batch - first), panel_lanes, first * tiles.rows});
    }
    const std::size_t pieces =
        std::min(groups.size() * tiles.count(), static_cast<std::size_t>(std::max(threads, 1)));
    const auto multiply_group = [&](const VectorGroup& group, std::size_t tile_begin,
                                    std::size_t tile_end) {
        const float* vectors = x + group.first * cols;
        const Outputs group_out = out.past(group.first);
        const NotFinite not_finite(layout, vectors, group.vectors);
        const support::Scratch<float> panel(cols * panel_lanes);
        // Memory may hold denormals, which take long, in the lanes that no vector fills.
        if (group.vectors < panel_lanes) std::fill_n(panel.data(), panel.size(), 0.0F);
        transpose(vectors, cols, group.vectors, cols, panel.data(), panel_lanes);
        const support::Scratch<float> sums(row_grain * panel_lanes);
        for (std::size_t t = tile_begin; t < tile_end; ++t) {
            const std::size_t begin = t * row_grain;
            const std::size_t end = std::min<std::size_t>(layout.rows, begin + row_grain);
            for (std::size_t r = begin; r < end; ++r) {
                std::fill_n(sums.data() + (r - begin) * panel_lanes, panel_lanes,
                            out.bias.empty() ? 0.0F : out.bias[r]);
            }
            for (std::size_t b = 0; b < csr16.blocks.size(); ++b) {
                BlockView block = layout.view(csr16, b);
                block.row_starts += begin;
                kernel.multiply_panel(block, panel.data() + block.first_column * panel_lanes,
                                      offsets.data(), sums.data(), panel_lanes, 0, end - begin);
            }
            transpose(sums.data(), panel_lanes, end - begin, group.vectors,
                      group_out.products + begin, layout.rows);
            for (std::size_t n = 0; n < group.vectors; ++n) {
                not_finite.spread(n, begin, end, group_out.products + n * layout.rows + begin);
                group_out.apply_epilogue(n, begin, end);
            }
        }
    };
    parallel_for(pieces, 1, threads, [&](std::size_t begin, std::size_t end) {
        for_each_share(groups, tiles, pieces, begin, end, multiply_group);
    });
}

}  // namespace tersor::spmm
