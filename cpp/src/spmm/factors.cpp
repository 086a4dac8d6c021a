// Factors of rows and columns: x is multiplied with those of the columns as it is read, and
// products with those of the rows as they are finished; convolutions, which have no pass over x or
// y of their own to do so in, take values that have both inside.
#include <algorithm>
#include <cmath>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>

#include "spmm/layout.hpp"
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
spmm::Rows16 with_values(const PackedMatrix::Layout& layout, const spmm::Rows16& rows16) {
    spmm::Rows16 made;
    for (std::size_t b = 0; b < rows16.blocks.size(); ++b) {
        const spmm::BlockView from = layout.view(rows16, b);
        spmm::Block& to = made.blocks.emplace_back();
        to.first_column = from.first_column;
        to.columns = copy_of(rows16.blocks[b].columns);
        to.row_starts = copy_of(rows16.blocks[b].row_starts);
        to.values = support::AlignedBuffer<float>(to.columns.size());
        for (std::size_t r = 0; r < layout.rows; ++r) {
            for (std::uint64_t i = from.row_starts[r]; i < from.row_starts[r + 1]; ++i) {
                to.values[static_cast<std::size_t>(i)] =
                    layout.scaled(from.weight(i), r, from.first_column + from.columns[i]);
            }
        }
    }
    return made;
}

}  // namespace

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
    return source.with_factors_inside_made.get([&] {
        auto made = std::make_unique<Layout>();
        made->isa = source.isa;
        made->rows = source.rows;
        made->cols = source.cols;
        made->nonzeros = source.nonzeros;
        made->rows16_made.put(source.from_rows16(
            [&](const spmm::Rows16& rows16) { return with_values(source, rows16); }));
        return PackedMatrix(std::move(made));
    });
}

}  // namespace tersor
