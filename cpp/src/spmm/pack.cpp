// The door from untrusted codes to the kernels.
#include <algorithm>
#include <cmath>
#include <memory>
#include <stdexcept>
#include <utility>

#include "spmm/csr16/pack.hpp"
#include "spmm/pack_entries.hpp"
#include "spmm/packed_matrix.hpp"
#include "spmm/rows/csr_rows.hpp"
#include "spmm/sell/pack.hpp"
#include "support/physical_memory.hpp"
#include "tersor/spmm.hpp"

namespace tersor::spmm {
namespace {

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

/// Whether what is kept of each row could be held: a flat matrix may announce any number of rows,
/// which nothing else backs.
bool fits_memory(const CsrOutline& csr) noexcept {
    constexpr std::uint64_t row_bytes = 64;  // where it begins, its statistics, its place
    return !csr.flat || csr.rows <= support::physical_memory() / row_bytes;
}

void check_codebook(std::span<const float> codebook) {
    if (codebook.empty() || codebook.size() > 256 || codebook[0] != 0.0F) {
        throw std::invalid_argument("a codebook has 1 to 256 values, of which the first is 0");
    }
}

}  // namespace

bool pack_entries(const CsrOutline& csr, EntrySource& source, std::span<const float> codebook,
                  PackedMatrix& packed, LayoutHint layout_hint, int threads) {
    check_codebook(codebook);
    auto layout = empty_layout(csr);
    layout->set_codebook(codebook);
    CsrRows rows(csr, source, codebook.size(), layout->isa);
    if (!rows.good()) return false;
    const bool sell = layout_hint == LayoutHint::vector && layout->fits_sell();
    if ((csr.flat || !sell) && !rows.load_all(threads)) return false;
    if (sell) {
        Sell sell_layout;
        if (!make_sell(rows, csr.rows, codebook, layout->isa, threads, sell_layout)) return false;
        layout->lazy_sell.put(std::move(sell_layout));
    } else {
        layout->lazy_csr16.put(pack_csr16(rows, csr.rows));
    }
    packed = PackedMatrix(std::move(layout));
    return true;
}

Result pack(const RelativeCsr& csr, std::span<const float> codebook, PackedMatrix& packed,
            LayoutHint layout_hint, int threads) {
    check_codebook(codebook);
    for (std::size_t i = 0; i < codebook.size(); ++i) {
        if (!std::isfinite(codebook[i])) return {Status::not_finite, i};
    }
    if (csr.codes.size() == csr.gaps.size()) {
        EntriesInMemory source(csr);
        const CsrOutline outline = outline_of(csr);
        if (!fits_memory(outline)) return {Status::too_large, 0};
        if (pack_entries(outline, source, codebook, packed, layout_hint, threads)) {
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
    if (!fits_memory(outline)) return {Status::too_large, 0};
    EntriesInMemory source(csr);
    auto layout = empty_layout(outline);
    CsrRows rows(outline, source, 256, layout->isa);
    if (!rows.good() || !rows.load_all(1)) return csr::validate(csr);
    layout->lazy_csr16.put(pack_csr16(rows, csr.rows, values.data()));
    packed = PackedMatrix(std::move(layout));
    return valid;
}

}  // namespace tersor::spmm
