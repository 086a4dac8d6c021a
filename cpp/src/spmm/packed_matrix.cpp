// What a packed matrix holds, and what is made of it when first needed.
#include "spmm/packed_matrix.hpp"

#include <memory>
#include <stdexcept>
#include <utility>

#include "spmm/crossovers.hpp"
#include "spmm/csr16/rows.hpp"
#include "spmm/panels/kernels.hpp"
#include "spmm/sell/pack.hpp"
#include "spmm/sell/rows.hpp"
#include "spmm/tiles/kernels.hpp"
#include "support/checked_size.hpp"

namespace tersor {

namespace {

/// A layout made of the rows of another that is there.
template <class Make>
auto from_rows(const PackedMatrix::Layout& layout, const Make& make) {
    if (const spmm::Csr16* packed = layout.lazy_csr16.peek()) {
        return make(spmm::Csr16Reader(*packed));
    }
    return make(spmm::SellReader(*layout.lazy_sell.peek()));
}

}  // namespace

PackedMatrix::PackedMatrix() noexcept = default;
PackedMatrix::PackedMatrix(std::unique_ptr<Layout> layout) noexcept : layout_(std::move(layout)) {}
PackedMatrix::PackedMatrix(PackedMatrix&&) noexcept = default;
PackedMatrix& PackedMatrix::operator=(PackedMatrix&&) noexcept = default;
PackedMatrix::~PackedMatrix() = default;

const PackedMatrix::Layout& PackedMatrix::layout() const noexcept {
    static const Layout empty{};
    return layout_ != nullptr ? *layout_ : empty;
}

std::uint32_t PackedMatrix::rows() const noexcept { return layout().rows; }
std::uint32_t PackedMatrix::cols() const noexcept { return layout().cols; }
std::size_t PackedMatrix::nonzeros() const noexcept { return layout().nonzeros; }
Isa PackedMatrix::isa() const noexcept { return layout().isa; }
std::size_t PackedMatrix::codebook_size() const noexcept { return layout().codebook_size; }

std::size_t PackedMatrix::nbytes() const noexcept {
    const Layout& layout = this->layout();
    std::size_t bytes = layout.codebook.nbytes();
    if (const spmm::Csr16* packed = layout.lazy_csr16.peek()) bytes += packed->nbytes();
    if (const spmm::Sell* packed = layout.lazy_sell.peek()) bytes += packed->nbytes();
    if (const spmm::HighestRows* packed = layout.lazy_highest.peek()) bytes += packed->nbytes();
    if (const spmm::Panels* packed = layout.lazy_panels.peek()) bytes += packed->nbytes();
    if (const spmm::Panels* packed = layout.lazy_limb_panels.peek()) bytes += packed->nbytes();
    if (const spmm::Tiles* packed = layout.lazy_tiles.peek()) bytes += packed->nbytes();
    if (const PackedMatrix* packed = layout.lazy_transposed.peek()) bytes += packed->nbytes();
    if (const PackedMatrix* packed = layout.lazy_with_factors_inside.peek()) {
        bytes += packed->nbytes();
    }
    return bytes + layout.convolutions.nbytes() + layout.row_factors.nbytes() +
           layout.column_factors.nbytes();
}

void PackedMatrix::unpack(std::span<float> out) const {
    const Layout& layout = this->layout();
    const std::size_t cols = layout.cols;
    if (support::checked_product(layout.rows, layout.cols) != out.size()) {
        throw std::invalid_argument("unpack: the output does not have rows x cols elements");
    }
    std::fill(out.begin(), out.end(), 0.0F);
    if (layout.lazy_csr16.peek() == nullptr && layout.lazy_sell.peek() != nullptr) {
        spmm::for_each_entry(
            *layout.lazy_sell.peek(), [&](std::size_t row, std::size_t column, std::uint8_t code) {
                out[row * cols + column] = layout.scaled(layout.codebook[code], row, column);
            });
        return;
    }
    const spmm::Csr16& csr16 = layout.csr16();
    for (std::size_t b = 0; b < csr16.blocks.size(); ++b) {
        const spmm::BlockView block = layout.view(csr16, b);
        for (std::size_t r = 0; r < layout.rows; ++r) {
            for (std::uint64_t i = block.row_starts[r]; i < block.row_starts[r + 1]; ++i) {
                const std::size_t column = block.first_column + block.columns[i];
                out[r * cols + column] = layout.scaled(block.weight(i), r, column);
            }
        }
    }
}

void PackedMatrix::Layout::set_codebook(std::span<const float> values) {
    codebook = support::AlignedBuffer<float>(256);
    codebook_size = values.size();
    std::copy(values.begin(), values.end(), codebook.data());
    integers = spmm::find_integers(values).has_value();
}

bool PackedMatrix::Layout::fits_sell() const noexcept {
    return spmm::fits_sell(isa, codebook_size, nonzeros, std::uint64_t{rows} * cols, integers) &&
           cols <= spmm::max_sell_columns;
}

bool PackedMatrix::Layout::runs_integers() const noexcept {
    return integers && fits_sell() &&
           spmm::shape_for(spmm::sell_shape(isa), codebook_size, nonzeros,
                           std::uint64_t{rows} * cols, integers)
               .dense;
}

const spmm::Csr16& PackedMatrix::Layout::csr16() const {
    return lazy_csr16.get([&] {
        const spmm::Sell* packed = lazy_sell.peek();
        return packed != nullptr ? spmm::make_csr16(*packed, rows, cols) : spmm::Csr16{};
    });
}

const spmm::Sell* PackedMatrix::Layout::sell(int threads) const {
    if (!fits_sell()) return nullptr;
    return &lazy_sell.get([&] {
        spmm::Csr16Rows source(*lazy_csr16.peek(), cols, isa);
        spmm::Sell packed;
        // What was packed before is well formed.
        (void)spmm::make_sell(source, rows, std::span(codebook.data(), codebook_size), isa, threads,
                              packed);
        return packed;
    });
}

const spmm::HighestRows& PackedMatrix::Layout::highest_rows() const {
    return lazy_highest.get([&] {
        return spmm::make_highest_rows(*lazy_sell.peek(),
                                       std::span(codebook.data(), codebook_size));
    });
}

const spmm::Panels* PackedMatrix::Layout::panels(int threads) const {
    if (codebook_size == 0 || rows == 0 || cols == 0 || cols > spmm::max_panels_columns) {
        return nullptr;
    }
    return &lazy_panels.get([&] { return make_panels_of(spmm::code_entries(), threads); });
}

const spmm::Panels* PackedMatrix::Layout::limb_panels(int threads) const {
    const spmm::Sell* packed = sell(threads);
    if (!spmm::has_byte_limbs || packed == nullptr || cols == 0 || cols > spmm::max_limb_columns ||
        spmm::panels::kernels(isa).multiply_limb_block == nullptr) {
        return nullptr;
    }
    return &lazy_limb_panels.get(
        [&] { return make_panels_of(spmm::limb_entries(packed->limbs[0]), threads); });
}

spmm::Panels PackedMatrix::Layout::make_panels_of(const spmm::PanelEntries& entries,
                                                  int threads) const {
    return from_rows(*this, [&](const spmm::RowReader& source) {
        return make_panels(source, rows, cols, nonzeros, entries, threads);
    });
}

const spmm::Tiles* PackedMatrix::Layout::tiles(int threads) const {
    if (!spmm::has_tiles || spmm::tiles::kernels(isa).multiply == nullptr ||
        sell(threads) == nullptr) {
        return nullptr;
    }
    return &lazy_tiles.get([&] {
        return from_rows(*this, [&](const spmm::RowReader& source) {
            return make_tiles(source, rows, cols, codebook_size, threads);
        });
    });
}

}  // namespace tersor
