#include "spmm/factors.hpp"

// Factors of rows and columns: x is multiplied with those of the columns as it is read, and
// products with those of the rows as they are finished; convolutions, which have no pass over x or
// y of their own to do so in, take values that have both inside.
#include <algorithm>
#include <cmath>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>

#include "spmm/activations/kernels.hpp"
#include "spmm/epilogue/outputs.hpp"
#include "spmm/packed_matrix.hpp"
#include "tersor/parallel.hpp"
#include "tersor/spmm.hpp"

namespace tersor {
namespace {

void set(std::span<const float> factors, std::size_t size, const char* what,
         support::AlignedBuffer<float>& to) {
    const auto finite = [](float factor) { return std::isfinite(factor); };
    if (!factors.empty() && (factors.size() != size || !std::ranges::all_of(factors, finite))) {
        throw std::invalid_argument(std::string("set_factors: there is not one finite factor for "
                                                "each ") +
                                    what);
    }
    to = {};
    if (factors.empty()) return;
    to = support::AlignedBuffer<float>(size);
    std::ranges::copy(factors, to.data());
}

template <class T>
support::AlignedBuffer<T> copy_of(const support::AlignedBuffer<T>& source) {
    support::AlignedBuffer<T> copy(source.size());
    std::copy_n(source.data(), source.size(), copy.data());
    return copy;
}

/// Values of their own for the entries of a matrix, with the factors inside.
spmm::Csr16 with_values(const PackedMatrix::Layout& layout, const spmm::Csr16& csr16) {
    spmm::Csr16 result;
    for (std::size_t b = 0; b < csr16.blocks.size(); ++b) {
        const spmm::BlockView from = layout.view(csr16, b);
        spmm::Block& to = result.blocks.emplace_back();
        to.first_column = from.first_column;
        to.columns = copy_of(csr16.blocks[b].columns);
        to.row_starts = copy_of(csr16.blocks[b].row_starts);
        to.values = support::AlignedBuffer<float>(to.columns.size());
        for (std::size_t r = 0; r < layout.rows; ++r) {
            for (std::uint64_t i = from.row_starts[r]; i < from.row_starts[r + 1]; ++i) {
                to.values[static_cast<std::size_t>(i)] =
                    layout.scaled(from.weight(i), r, from.first_column + from.columns[i]);
            }
        }
    }
    return result;
}

}  // namespace

void spmm::scale_columns(const PackedMatrix::Layout& layout, FloatView x, std::span<float> scaled,
                         int threads) {
    const std::size_t cols = layout.cols;
    if (cols == 0) return;
    const activations::Scale scale = activations::kernels(layout.isa).scale;
    parallel_for(x.size / cols, 1, threads, [&](std::size_t begin, std::size_t end) {
        for (std::size_t n = begin; n < end; ++n) {
            scale(part_of(x, n * cols, cols).data, x.type, layout.column_factors.data(), cols,
                  scaled.data() + n * cols);
        }
    });
}

void PackedMatrix::set_factors(std::span<const float> row_factors,
                               std::span<const float> column_factors) {
    if (layout_ == nullptr) layout_ = std::make_unique<Layout>();
    set(row_factors, layout_->rows, "row", layout_->row_factors);
    set(column_factors, layout_->cols, "column", layout_->column_factors);
}

std::span<const float> PackedMatrix::row_factors() const noexcept { return layout().row_factors; }

std::span<const float> PackedMatrix::column_factors() const noexcept {
    return layout().column_factors;
}

const PackedMatrix& PackedMatrix::with_factors_inside() const {
    const Layout& source = layout();
    if (!source.has_factors()) return *this;
    return source.lazy_with_factors_inside.get([&] {
        auto result = std::make_unique<Layout>();
        result->isa = source.isa;
        result->rows = source.rows;
        result->cols = source.cols;
        result->nonzeros = source.nonzeros;
        result->lazy_csr16.put(source.from_csr16(
            [&](const spmm::Csr16& csr16) { return with_values(source, csr16); }));
        return PackedMatrix(std::move(result));
    });
}

}  // namespace tersor
