// What training needs beside products: the transposed matrix, other values for the same codes, and
// the gradient of the values.
#include <algorithm>
#include <cmath>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "spmm/csr16/kernels.hpp"
#include "spmm/packed_matrix.hpp"
#include "support/checked_size.hpp"
#include "tersor/parallel.hpp"
#include "tersor/spmm.hpp"

namespace tersor {
namespace {

/// Calls `visit(row, column, block, i)` for each entry i of each block of a matrix [rows, cols].
template <class Visit>
void for_each_entry(const spmm::Csr16& layout, std::size_t rows, const Visit& visit) {
    for (const spmm::Block& block : layout.blocks) {
        for (std::size_t r = 0; r < rows; ++r) {
            for (std::uint64_t i = block.row_starts[r]; i < block.row_starts[r + 1]; ++i) {
                visit(r, block.first_column + block.columns[i], block, i);
            }
        }
    }
}

spmm::Csr16 transpose(const spmm::Csr16& source, std::uint32_t rows, std::uint32_t cols,
                      bool shared) {
    spmm::Csr16Builder builder(cols, rows);
    for_each_entry(source, rows,
                   [&](std::size_t row, std::size_t column, const spmm::Block&, std::uint64_t) {
                       builder.count(column, row);
                   });
    builder.allocate(shared);
    // Rows come in order within a block of columns, and each column lies in one block.
    for_each_entry(
        source, rows,
        [&](std::size_t row, std::size_t column, const spmm::Block& from, std::uint64_t i) {
            const auto [to, at] = builder.place(column, row);
            if (shared) {
                to.codes[at] = from.codes[i];
            } else {
                to.values[at] = from.values[i];
            }
        });
    return std::move(builder).finish();
}

support::AlignedBuffer<float> copy_of(const support::AlignedBuffer<float>& factors) {
    if (factors.size() == 0) return {};
    support::AlignedBuffer<float> copy(factors.size());
    std::copy_n(factors.data(), factors.size(), copy.data());
    return copy;
}

/// With the factors, and nothing else that products are made of.
std::unique_ptr<PackedMatrix::Layout> empty_copy(const PackedMatrix::Layout& source) {
    auto layout = std::make_unique<PackedMatrix::Layout>();
    layout->isa = source.isa;
    layout->rows = source.rows;
    layout->cols = source.cols;
    layout->nonzeros = source.nonzeros;
    layout->row_factors = copy_of(source.row_factors);
    layout->column_factors = copy_of(source.column_factors);
    return layout;
}

}  // namespace

const PackedMatrix& PackedMatrix::transposed() const& {
    const Layout& source = layout();
    return source.lazy_transposed.get([&] {
        auto result = empty_copy(source);
        std::swap(result->rows, result->cols);
        std::swap(result->row_factors, result->column_factors);
        const bool shared = source.codebook_size > 0;
        if (shared) result->set_codebook(std::span(source.codebook.data(), source.codebook_size));
        result->lazy_csr16.put(source.from_csr16([&](const spmm::Csr16& csr16) {
            return transpose(csr16, source.rows, source.cols, shared);
        }));
        return PackedMatrix(std::move(result));
    });
}

PackedMatrix PackedMatrix::with_codebook(std::span<const float> codebook) const {
    if (codebook.empty() || codebook.size() != codebook_size() || codebook[0] != 0.0F ||
        !std::all_of(codebook.begin(), codebook.end(), [](float v) { return std::isfinite(v); })) {
        throw std::invalid_argument("the new codebook does not have " +
                                    std::to_string(codebook_size()) +
                                    " finite values, of which the first is 0");
    }
    const Layout& source = layout();
    auto result = empty_copy(source);
    result->set_codebook(codebook);
    static_cast<void>(source.csr16());  // the other layouts can be made from it
    result->lazy_csr16.share(source.lazy_csr16);
    result->lazy_panels.share(source.lazy_panels);
    if (const PackedMatrix* transposed = source.lazy_transposed.peek()) {
        result->lazy_transposed.put(transposed->with_codebook(codebook));
    }
    return PackedMatrix(std::move(result));
}

namespace spmm {
namespace {

using csr16::panel_lanes;

/// Entries of a code, on the average, that are added up in fp32 before they go on in double.
constexpr std::uint64_t chain = 64;

/// Rows from which a thread of their own, with sums of its own, is worth it.
constexpr std::size_t piece_rows = 64;

/// Times factors, unless these are nullptr.
void to_panel(const float* from, std::size_t size, std::size_t vectors, const float* factors,
              float* panel) noexcept {
    for (std::size_t k = 0; k < size; ++k) {
        const float factor = factors != nullptr ? factors[k] : 1.0F;
        for (std::size_t lane = 0; lane < panel_lanes; ++lane) {
            panel[k * panel_lanes + lane] = lane < vectors ? from[lane * size + k] * factor : 0.0F;
        }
    }
}

/// Adds and clears the sums of each code's lanes.
void fold(std::span<float> lanes, double* totals) noexcept {
    for (std::size_t i = 0; i < lanes.size(); ++i) totals[i / panel_lanes] += double{lanes[i]};
    std::fill(lanes.begin(), lanes.end(), 0.0F);
}

void check(bool good, const char* message) {
    if (!good) throw std::invalid_argument(std::string("sum_by_code: ") + message);
}

}  // namespace

void sum_by_code(const PackedMatrix& packed, std::span<const float> x,
                 std::span<const float> gradient, std::size_t batch, std::size_t row_begin,
                 std::size_t rows, std::span<float> sums, int threads) {
    const PackedMatrix::Layout& layout = packed.layout();
    const std::size_t codes = packed.codebook_size();
    check(codes > 0, "the weights are not shared");
    check(row_begin <= layout.rows && rows <= layout.rows - row_begin,
          "the matrix does not have these rows");
    check(support::checked_product(batch, layout.cols) == x.size(),
          "x does not have batch * cols elements");
    check(support::checked_product(batch, rows) == gradient.size(),
          "the gradient does not have batch * rows elements");
    check(sums.size() == codes, "the sums are not as many as the codes");
    const csr16::Kernels& kernel = csr16::kernels(layout.isa);
    const Csr16& csr16 = layout.csr16();
    support::AlignedBuffer<float> x_panel(layout.cols * panel_lanes, support::Fill::none);
    support::AlignedBuffer<float> panel(rows * panel_lanes, support::Fill::none);
    const std::size_t pieces = std::clamp<std::size_t>(
        rows / piece_rows, 1, static_cast<std::size_t>(std::max(threads, 1)));
    support::AlignedBuffer<float> lanes(pieces * codes * panel_lanes);
    std::vector<double> totals(pieces * codes);

    for (std::size_t first = 0; first < batch; first += panel_lanes) {
        const std::size_t vectors = std::min(panel_lanes, batch - first);
        to_panel(x.data() + first * layout.cols, layout.cols, vectors, layout.column_factors.data(),
                 x_panel.data());
        const float* const factors =
            layout.row_factors.size() != 0 ? layout.row_factors.data() + row_begin : nullptr;
        to_panel(gradient.data() + first * rows, rows, vectors, factors, panel.data());
        parallel_for(pieces, 1, threads, [&](std::size_t begin, std::size_t end) {
            for (std::size_t p = begin; p < end; ++p) {
                const std::span partial(lanes.data() + p * codes * panel_lanes,
                                        codes * panel_lanes);
                double* total = totals.data() + p * codes;
                std::uint64_t added = 0;
                for (std::size_t b = 0; b < csr16.blocks.size(); ++b) {
                    const BlockView block = layout.view(csr16, b);
                    for (std::size_t r = rows * p / pieces; r < rows * (p + 1) / pieces; ++r) {
                        const std::uint64_t from = block.row_starts[row_begin + r];
                        const std::uint64_t to = block.row_starts[row_begin + r + 1];
                        kernel.sum_by_code(block, from, to,
                                           x_panel.data() + block.first_column * panel_lanes,
                                           panel.data() + r * panel_lanes, partial.data());
                        added += to - from;
                        if (added >= chain * codes) {
                            fold(partial, total);
                            added = 0;
                        }
                    }
                }
                fold(partial, total);
            }
        });
    }
    for (std::size_t c = 0; c < codes; ++c) {
        double sum = 0.0;
        for (std::size_t p = 0; p < pieces; ++p) sum += totals[p * codes + c];
        sums[c] = static_cast<float>(sum);
    }
}

}  // namespace spmm
}  // namespace tersor
