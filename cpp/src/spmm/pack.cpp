// The door from untrusted codes to the kernels.
#include <algorithm>
#include <cmath>
#include <memory>
#include <stdexcept>
#include <utility>

#include "spmm/kernels.hpp"
#include "spmm/layout.hpp"
#include "spmm/make_sliding.hpp"
#include "spmm/pack_entries.hpp"
#include "spmm/regime.hpp"
#include "spmm/row_reader.hpp"
#include "spmm/row_source.hpp"
#include "support/checked_size.hpp"
#include "tersor/spmm.hpp"

namespace tersor {

namespace {

/// A layout made of the rows of another that is there.
template <class Make>
auto from_rows(const PackedMatrix::Layout& layout, const Make& make) {
    if (const spmm::Rows16* made = layout.rows16_made.peek()) {
        return make(spmm::Rows16Reader(*made));
    }
    return make(spmm::SlidingReader(*layout.sliding_made.peek()));
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
    if (const spmm::Rows16* made = made_of.rows16_made.peek()) bytes += made->nbytes();
    if (const spmm::Sliding* made = made_of.sliding_made.peek()) bytes += made->nbytes();
    if (const spmm::HighestRows* made = made_of.highest_made.peek()) bytes += made->nbytes();
    if (const spmm::Panels* made = made_of.panels_made.peek()) bytes += made->nbytes();
    if (const spmm::Panels* made = made_of.digit_panels_made.peek()) bytes += made->nbytes();
    if (const spmm::Tiles* made = made_of.tiles_made.peek()) bytes += made->nbytes();
    if (const PackedMatrix* made = made_of.transposed_made.peek()) bytes += made->nbytes();
    if (const PackedMatrix* made = made_of.with_factors_inside_made.peek()) bytes += made->nbytes();
    bytes += made_of.row_factors.nbytes() + made_of.column_factors.nbytes();
    return bytes;
}

void PackedMatrix::unpack(std::span<float> out) const {
    const Layout& made_of = layout();
    const std::size_t cols = made_of.cols;
    if (support::checked_product(made_of.rows, made_of.cols) != out.size()) {
        throw std::invalid_argument("unpack: the output does not have rows x cols elements");
    }
    std::fill(out.begin(), out.end(), 0.0F);
    if (made_of.rows16_made.peek() == nullptr && made_of.sliding_made.peek() != nullptr) {
        spmm::for_each_entry(*made_of.sliding_made.peek(), [&](std::size_t row, std::size_t column,
                                                               std::uint8_t code) {
            out[row * cols + column] = made_of.scaled(made_of.codebook[code], row, column);
        });
        return;
    }
    const spmm::Rows16& rows16 = made_of.rows16();
    for (std::size_t b = 0; b < rows16.blocks.size(); ++b) {
        const spmm::BlockView block = made_of.view(rows16, b);
        for (std::size_t r = 0; r < made_of.rows; ++r) {
            for (std::uint64_t i = block.row_starts[r]; i < block.row_starts[r + 1]; ++i) {
                const std::size_t column = block.first_column + block.columns[i];
                out[r * cols + column] = made_of.scaled(block.weight(i), r, column);
            }
        }
    }
}

bool PackedMatrix::Layout::fits_sliding() const noexcept {
    return spmm::fits_sliding(isa, codebook_size, nonzeros, std::uint64_t{rows} * cols) &&
           cols <= spmm::max_sliding_columns;
}

const spmm::Rows16& PackedMatrix::Layout::rows16() const {
    return rows16_made.get([&] {
        const spmm::Sliding* made = sliding_made.peek();
        return made != nullptr ? spmm::make_rows16(*made, rows, cols) : spmm::Rows16{};
    });
}

const spmm::Sliding* PackedMatrix::Layout::sliding(int threads) const {
    if (!fits_sliding()) return nullptr;
    return &sliding_made.get([&] {
        spmm::Rows16Rows source(*rows16_made.peek(), cols, isa);
        return spmm::make_sliding(source, rows, std::span(codebook.data(), codebook_size), isa,
                                  threads);
    });
}

const spmm::HighestRows& PackedMatrix::Layout::highest_rows() const {
    return highest_made.get([&] {
        return spmm::make_highest_rows(*sliding_made.peek(),
                                       std::span(codebook.data(), codebook_size));
    });
}

const spmm::Panels* PackedMatrix::Layout::panels(int threads) const {
    if (codebook_size == 0 || rows == 0 || cols == 0 || cols > spmm::max_panels_columns) {
        return nullptr;
    }
    return &panels_made.get([&] { return make_panels_of(spmm::code_entries(), threads); });
}

const spmm::Panels* PackedMatrix::Layout::digit_panels(int threads) const {
    const spmm::Sliding* made = sliding(threads);
    if (made == nullptr || cols == 0 || cols > spmm::max_digit_columns ||
        spmm::kernels(isa).multiply_digit_block == nullptr) {
        return nullptr;
    }
    return &digit_panels_made.get(
        [&] { return make_panels_of(spmm::digit_entries(made->digits[0]), threads); });
}

spmm::Panels PackedMatrix::Layout::make_panels_of(const spmm::PanelEntries& entries,
                                                  int threads) const {
    return from_rows(*this, [&](const spmm::RowReader& source) {
        return make_panels(source, rows, cols, nonzeros, entries, threads);
    });
}

const spmm::Tiles* PackedMatrix::Layout::tiles(int threads) const {
    if (!spmm::has_tiles || spmm::kernels(isa).multiply_tiles == nullptr ||
        sliding(threads) == nullptr) {
        return nullptr;
    }
    return &tiles_made.get([&] {
        return from_rows(*this, [&](const spmm::RowReader& source) {
            return make_tiles(source, rows, cols, codebook_size, threads);
        });
    });
}

namespace spmm {
namespace {

/// Lays the rows out; `store(block, place, code)` is told of each non-zero, in order.
template <class Store>
Rows16 lay_out(const CsrRows& source, std::uint32_t rows, bool shared, const Store& store) {
    Rows16Builder builder(rows, source.cols());
    for (std::size_t r = 0; r < rows; ++r) {
        source.for_each_entry(
            r, [&](std::uint32_t column, std::uint8_t) { builder.count(r, column); });
    }
    builder.allocate(shared);
    for (std::size_t r = 0; r < rows; ++r) {
        source.for_each_entry(r, [&](std::uint32_t column, std::uint8_t code) {
            const Rows16Builder::Place place = builder.place(r, column);
            store(place.block, place.at, code);
        });
    }
    return std::move(builder).finish();
}

/// The same for codes and a single block, which most matrices are: decoded by a kernel.
Rows16 lay_out_block(const CsrRows& source, std::uint32_t rows) {
    Rows16 layout;
    if (source.nonzeros() == 0) return layout;
    Block& block = layout.blocks.emplace_back();
    block.row_starts = support::AlignedBuffer<std::uint64_t>(std::size_t{rows} + 1);
    block.columns = support::AlignedBuffer<std::uint16_t>(source.nonzeros());
    block.codes = support::AlignedBuffer<std::uint8_t>(source.nonzeros());
    std::vector<Entry> entries;
    std::size_t at = 0;
    for (std::size_t r = 0; r < rows; ++r) {
        const std::size_t room = source.entries_before(r + 1) - source.entries_before(r);
        if (entries.size() < room + read_slack) entries.resize(2 * (room + read_slack));
        const std::size_t size = source.read(r, entries.data());
        for (std::size_t i = 0; i < size; ++i) {
            block.columns[at + i] = static_cast<std::uint16_t>(entries[i] >> 8);
        }
        for (std::size_t i = 0; i < size; ++i) {
            block.codes[at + i] = static_cast<std::uint8_t>(entries[i]);
        }
        at += size;
        block.row_starts[r + 1] = at;
    }
    return layout;
}

std::unique_ptr<PackedMatrix::Layout> empty_layout(const CsrOutline& csr) {
    auto layout = std::make_unique<PackedMatrix::Layout>();
    layout->isa = isa_in_use();
    layout->rows = csr.rows;
    layout->cols = csr.cols;
    layout->nonzeros = csr.nonzeros;
    return layout;
}

/// Entries that are there already.
class EntriesInMemory final : public EntrySource {
public:
    explicit EntriesInMemory(const CsrView& csr) noexcept : all_{csr.codes, csr.gaps} {}

    bool read(std::size_t begin, std::size_t end, int, Entries& entries) override {
        entries = {all_.codes.subspan(begin, end - begin), all_.gaps.subspan(begin, end - begin)};
        return true;
    }

private:
    Entries all_;
};

CsrOutline outline_of(const CsrView& csr) noexcept {
    return {csr.rows,
            csr.cols,
            csr.index_bits,
            csr.flat,
            csr.row_lengths,
            csr.codes.size(),
            csr.codes.size() - csr::filler_count(csr)};
}

void check_codebook(std::span<const float> codebook) {
    if (codebook.empty() || codebook.size() > 256 || codebook[0] != 0.0F) {
        throw std::invalid_argument("a codebook has 1 to 256 values, of which the first is 0");
    }
}

}  // namespace

bool pack_entries(const CsrOutline& csr, EntrySource& source, std::span<const float> codebook,
                  PackedMatrix& packed, Regime regime, int threads) {
    check_codebook(codebook);
    auto layout = empty_layout(csr);
    layout->codebook = support::AlignedBuffer<float>(256);
    layout->codebook_size = codebook.size();
    std::copy(codebook.begin(), codebook.end(), layout->codebook.data());
    CsrRows rows(csr, source, codebook.size(), layout->isa);
    if (!rows.good()) return false;
    const bool sliding = regime == Regime::vector && layout->fits_sliding();
    if ((csr.flat || !sliding) && !rows.load_all(threads)) return false;
    if (sliding) {
        Sliding made;
        if (!make_sliding(rows, csr.rows, codebook, layout->isa, threads, made)) return false;
        layout->sliding_made.put(std::move(made));
    } else if (csr.cols > 0 && csr.cols <= block_columns) {
        layout->rows16_made.put(lay_out_block(rows, csr.rows));
    } else {
        layout->rows16_made.put(lay_out(
            rows, csr.rows, true,
            [](Block& block, std::size_t to, std::uint8_t code) { block.codes[to] = code; }));
    }
    packed = PackedMatrix(std::move(layout));
    return true;
}

Result pack(const RelativeCsr& csr, std::span<const float> codebook, PackedMatrix& packed,
            Regime regime, int threads) {
    check_codebook(codebook);
    for (std::size_t i = 0; i < codebook.size(); ++i) {
        if (!std::isfinite(codebook[i])) return {Status::not_finite, i};
    }
    if (csr.codes.size() == csr.gaps.size()) {
        EntriesInMemory source(csr);
        const CsrOutline outline = outline_of(csr);
        if (pack_entries(outline, source, codebook, packed, regime, threads)) {
            return {Status::ok, outline.nonzeros};
        }
    }
    const Result valid = csr::validate(csr);
    if (!valid.ok()) return valid;
    const auto past = [&](std::uint8_t code) { return code >= codebook.size(); };
    const auto first = std::find_if(csr.codes.begin(), csr.codes.end(), past);
    return {Status::code_past_codebook, static_cast<std::size_t>(first - csr.codes.begin())};
}

Result pack_values(const RelativeCsr& csr, std::span<const float> values, PackedMatrix& packed) {
    const Result valid = csr::validate(csr);
    if (!valid.ok()) return valid;
    if (values.size() != valid.count) return {Status::size_mismatch, valid.count};
    for (std::size_t i = 0; i < values.size(); ++i) {
        if (!std::isfinite(values[i])) return {Status::not_finite, i};
    }
    const CsrOutline outline = outline_of(csr);
    EntriesInMemory source(csr);
    auto layout = empty_layout(outline);
    CsrRows rows(outline, source, 256, layout->isa);
    if (!rows.good() || !rows.load_all(1)) return csr::validate(csr);
    const float* value = values.data();
    layout->rows16_made.put(
        lay_out(rows, csr.rows, false,
                [&](Block& block, std::size_t to, std::uint8_t) { block.values[to] = *value++; }));
    packed = PackedMatrix(std::move(layout));
    return valid;
}

}  // namespace spmm
}  // namespace tersor
