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
    if (const spmm::Csr16* made = layout.csr16_made.peek()) {
        return make(spmm::Csr16Reader(*made));
    }
    return make(spmm::SellReader(*layout.sell_made.peek()));
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
    const Layout& made_of = layout();
    std::size_t bytes = made_of.codebook.nbytes();
    if (const spmm::Csr16* made = made_of.csr16_made.peek()) bytes += made->nbytes();
    if (const spmm::Sell* made = made_of.sell_made.peek()) bytes += made->nbytes();
    if (const spmm::HighestRows* made = made_of.highest_made.peek()) bytes += made->nbytes();
    if (const spmm::Panels* made = made_of.panels_made.peek()) bytes += made->nbytes();
    if (const spmm::Panels* made = made_of.limb_panels_made.peek()) bytes += made->nbytes();
    if (const spmm::Tiles* made = made_of.tiles_made.peek()) bytes += made->nbytes();
    if (const PackedMatrix* made = made_of.transposed_made.peek()) bytes += made->nbytes();
    if (const PackedMatrix* made = made_of.with_factors_inside_made.peek()) bytes += made->nbytes();
    return bytes + made_of.convolutions.nbytes() + made_of.row_factors.nbytes() +
           made_of.column_factors.nbytes();
}

void PackedMatrix::unpack(std::span<float> out) const {
    const Layout& made_of = layout();
    const std::size_t cols = made_of.cols;
    if (support::checked_product(made_of.rows, made_of.cols) != out.size()) {
        throw std::invalid_argument("unpack: the output does not have rows x cols elements");
    }
    std::fill(out.begin(), out.end(), 0.0F);
    if (made_of.csr16_made.peek() == nullptr && made_of.sell_made.peek() != nullptr) {
        spmm::for_each_entry(
            *made_of.sell_made.peek(), [&](std::size_t row, std::size_t column, std::uint8_t code) {
                out[row * cols + column] = made_of.scaled(made_of.codebook[code], row, column);
            });
        return;
    }
    const spmm::Csr16& csr16 = made_of.csr16();
    for (std::size_t b = 0; b < csr16.blocks.size(); ++b) {
        const spmm::BlockView block = made_of.view(csr16, b);
        for (std::size_t r = 0; r < made_of.rows; ++r) {
            for (std::uint64_t i = block.row_starts[r]; i < block.row_starts[r + 1]; ++i) {
                const std::size_t column = block.first_column + block.columns[i];
                out[r * cols + column] = made_of.scaled(block.weight(i), r, column);
            }
        }
    }
}

bool PackedMatrix::Layout::fits_sell() const noexcept {
    return spmm::fits_sell(isa, codebook_size, nonzeros, std::uint64_t{rows} * cols) &&
           cols <= spmm::max_sell_columns;
}

const spmm::Csr16& PackedMatrix::Layout::csr16() const {
    return csr16_made.get([&] {
        const spmm::Sell* made = sell_made.peek();
        return made != nullptr ? spmm::make_csr16(*made, rows, cols) : spmm::Csr16{};
    });
}

const spmm::Sell* PackedMatrix::Layout::sell(int threads) const {
    if (!fits_sell()) return nullptr;
    return &sell_made.get([&] {
        spmm::Csr16Rows source(*csr16_made.peek(), cols, isa);
        return spmm::make_sell(source, rows, std::span(codebook.data(), codebook_size), isa,
                               threads);
    });
}

const spmm::HighestRows& PackedMatrix::Layout::highest_rows() const {
    return highest_made.get([&] {
        return spmm::make_highest_rows(*sell_made.peek(),
                                       std::span(codebook.data(), codebook_size));
    });
}

const spmm::Panels* PackedMatrix::Layout::panels(int threads) const {
    if (codebook_size == 0 || rows == 0 || cols == 0 || cols > spmm::max_panels_columns) {
        return nullptr;
    }
    return &panels_made.get([&] { return make_panels_of(spmm::code_entries(), threads); });
}

const spmm::Panels* PackedMatrix::Layout::limb_panels(int threads) const {
    const spmm::Sell* made = sell(threads);
    if (made == nullptr || cols == 0 || cols > spmm::max_limb_columns ||
        spmm::panels::kernels(isa).multiply_limb_block == nullptr) {
        return nullptr;
    }
    return &limb_panels_made.get(
        [&] { return make_panels_of(spmm::limb_entries(made->limbs[0]), threads); });
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
    return &tiles_made.get([&] {
        return from_rows(*this, [&](const spmm::RowReader& source) {
            return make_tiles(source, rows, cols, codebook_size, threads);
        });
    });
}

}  // namespace tersor
