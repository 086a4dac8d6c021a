// The door from untrusted codes to the kernels.
#include <algorithm>
#include <cmath>
#include <memory>
#include <stdexcept>
#include <utility>

#include "spmm/layout.hpp"
#include "tersor/spmm.hpp"

namespace tersor {

PackedMatrix::PackedMatrix() noexcept = default;
PackedMatrix::PackedMatrix(std::unique_ptr<const Layout> layout) noexcept
    : layout_(std::move(layout)) {}
PackedMatrix::PackedMatrix(PackedMatrix&&) noexcept = default;
PackedMatrix& PackedMatrix::operator=(PackedMatrix&&) noexcept = default;
PackedMatrix::~PackedMatrix() = default;

std::uint32_t PackedMatrix::rows() const noexcept { return layout_->rows; }
std::uint32_t PackedMatrix::cols() const noexcept { return layout_->cols; }
std::size_t PackedMatrix::nonzeros() const noexcept { return layout_->nonzeros; }
Isa PackedMatrix::isa() const noexcept { return layout_->isa; }

std::size_t PackedMatrix::nbytes() const noexcept {
    std::size_t bytes = layout_->codebook.nbytes();
    for (const spmm::Block& b : layout_->blocks) {
        bytes += b.columns.nbytes() + b.codes.nbytes() + b.values.nbytes() + b.row_starts.nbytes();
    }
    return bytes;
}

void PackedMatrix::unpack(std::span<float> out) const {
    const std::size_t cols = layout_->cols;
    if (out.size() != layout_->rows * cols) {
        throw std::invalid_argument("unpack: the output does not have rows x cols elements");
    }
    std::fill(out.begin(), out.end(), 0.0F);
    for (std::size_t b = 0; b < layout_->blocks.size(); ++b) {
        const spmm::BlockView block = layout_->view(b);
        for (std::size_t r = 0; r < layout_->rows; ++r) {
            for (std::uint64_t i = block.row_starts[r]; i < block.row_starts[r + 1]; ++i) {
                out[r * cols + b * spmm::block_columns + block.columns[i]] = block.weight(i);
            }
        }
    }
}

namespace spmm {
namespace {

/// Calls `visit(row, column, entry)` for each non-zero of a validated matrix, in order.
template <class Visit>
void for_each_nonzero(const RelativeCsr& csr, const Visit& visit) {
    std::size_t entry = 0;
    const std::size_t sequences = csr.flat ? 1 : csr.rows;
    for (std::size_t s = 0; s < sequences; ++s) {
        std::uint64_t position = s * std::uint64_t{csr.cols};
        const std::size_t length = csr.flat ? csr.codes.size() : csr.row_lengths[s];
        for (const std::size_t end = entry + length; entry < end; ++entry, ++position) {
            position += csr.gaps[entry];
            if (csr.codes[entry] != 0) visit(position / csr.cols, position % csr.cols, entry);
        }
    }
}

/// Everything but the weights: where each non-zero goes, block by block.
std::unique_ptr<PackedMatrix::Layout> lay_out(const RelativeCsr& csr, std::size_t nonzeros,
                                              bool shared) {
    auto layout = std::make_unique<PackedMatrix::Layout>();
    layout->isa = isa_in_use();
    layout->rows = csr.rows;
    layout->cols = csr.cols;
    layout->nonzeros = nonzeros;
    const std::size_t block_count =
        static_cast<std::size_t>((csr.cols + block_columns - 1) / block_columns);
    layout->blocks.resize(block_count);
    for (Block& block : layout->blocks) {
        block.row_starts = support::AlignedBuffer<std::uint64_t>(std::size_t{csr.rows} + 1);
    }
    for_each_nonzero(csr, [&](std::uint64_t row, std::uint64_t column, std::size_t) {
        ++layout->blocks[column / block_columns].row_starts[row + 1];
    });
    for (Block& block : layout->blocks) {
        for (std::size_t r = 0; r < csr.rows; ++r) block.row_starts[r + 1] += block.row_starts[r];
        const auto size = static_cast<std::size_t>(block.row_starts[csr.rows]);
        block.columns = support::AlignedBuffer<std::uint16_t>(size);
        if (shared) {
            block.codes = support::AlignedBuffer<std::uint8_t>(size);
        } else {
            block.values = support::AlignedBuffer<float>(size);
        }
    }
    return layout;
}

/// Writes the columns, and has `store(block, position, entry)` write each weight.
template <class Store>
void fill(PackedMatrix::Layout& layout, const RelativeCsr& csr, const Store& store) {
    std::vector<std::size_t> next(layout.blocks.size(), 0);
    for_each_nonzero(csr, [&](std::uint64_t, std::uint64_t column, std::size_t entry) {
        const auto b = static_cast<std::size_t>(column / block_columns);
        const std::size_t position = next[b]++;
        layout.blocks[b].columns[position] = static_cast<std::uint16_t>(column % block_columns);
        store(layout.blocks[b], position, entry);
    });
}

}  // namespace

Result pack(const RelativeCsr& csr, std::span<const float> codebook, PackedMatrix& packed) {
    const Result valid = csr::validate(csr);
    if (!valid.ok()) return valid;
    if (codebook.empty() || codebook.size() > 256 || codebook[0] != 0.0F) {
        throw std::invalid_argument("a codebook has 1 to 256 values, of which the first is 0");
    }
    for (std::size_t i = 0; i < codebook.size(); ++i) {
        if (!std::isfinite(codebook[i])) return {Status::not_finite, i};
    }
    for (std::size_t i = 0; i < csr.codes.size(); ++i) {
        if (csr.codes[i] >= codebook.size()) return {Status::code_past_codebook, i};
    }
    auto layout = lay_out(csr, valid.count, true);
    layout->codebook = support::AlignedBuffer<float>(256);
    std::copy(codebook.begin(), codebook.end(), layout->codebook.data());
    fill(*layout, csr, [&](Block& block, std::size_t position, std::size_t entry) {
        block.codes[position] = csr.codes[entry];
    });
    packed = PackedMatrix(std::move(layout));
    return valid;
}

Result pack_values(const RelativeCsr& csr, std::span<const float> values, PackedMatrix& packed) {
    const Result valid = csr::validate(csr);
    if (!valid.ok()) return valid;
    if (values.size() != valid.count) return {Status::size_mismatch, valid.count};
    for (std::size_t i = 0; i < values.size(); ++i) {
        if (!std::isfinite(values[i])) return {Status::not_finite, i};
    }
    auto layout = lay_out(csr, valid.count, false);
    std::size_t value = 0;
    fill(*layout, csr, [&](Block& block, std::size_t position, std::size_t) {
        block.values[position] = values[value++];
    });
    packed = PackedMatrix(std::move(layout));
    return valid;
}

}  // namespace spmm
}  // namespace tersor
