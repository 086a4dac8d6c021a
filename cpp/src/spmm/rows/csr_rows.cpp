#include "spmm/rows/csr_rows.hpp"

#include <algorithm>

#include "csr/wide_loops.hpp"

namespace tersor::spmm {

CsrRows::CsrRows(const CsrOutline& outline, EntrySource& source, std::size_t values, Isa isa)
    : outline_(outline),
      source_(source),
      kernels_(rows::kernels(isa)),
      rules_{outline.cols, outline.index_bits, values} {
    if (outline.flat) {
        good_ = true;
        return;
    }
    if (outline.index_bits < csr::min_index_bits || outline.index_bits > csr::max_index_bits ||
        outline.row_lengths.size() != outline.rows) {
        return;
    }
    starts_.resize(std::size_t{outline.rows} + 1, 0);
    for (std::size_t r = 0; r < outline.rows; ++r) {
        if (outline.row_lengths[r] > outline.entries - starts_[r]) return;
        starts_[r + 1] = starts_[r] + outline.row_lengths[r];
    }
    good_ = starts_.back() == outline.entries;
}

bool CsrRows::load(std::size_t begin, std::size_t end, int threads) {
    if (all_loaded_) return true;
    first_loaded_ = starts_[begin];
    return source_.read(starts_[begin], starts_[end], threads, loaded_);
}

bool CsrRows::load_all(int threads) {
    if (!source_.read(0, outline_.entries, threads, loaded_)) return false;
    CsrView all;
    all.rows = outline_.rows;
    all.cols = outline_.cols;
    all.index_bits = outline_.index_bits;
    all.flat = outline_.flat;
    all.codes = loaded_.codes;
    all.gaps = loaded_.gaps;
    all.row_lengths = outline_.row_lengths;
    const Result valid = csr::validate(all);
    if (!valid.ok() || valid.count != outline_.nonzeros) return false;
    if (csr::largest_code(all.codes) >= rules_.values) return false;
    if (outline_.flat) find_rows();
    all_loaded_ = true;
    return true;
}

void CsrRows::find_rows() {
    const auto& [codes, gaps] = loaded_;
    // A row begins with the first entry that lands in it or in a later row: fillers may straddle.
    starts_.resize(std::size_t{outline_.rows} + 1, 0);
    offsets_.resize(outline_.rows);
    std::size_t row = 0;
    std::uint64_t position = 0;
    constexpr std::size_t stride = 64;  // entries that are passed at once if no row begins there
    for (std::size_t i = 0; i < codes.size();) {
        const std::size_t end = std::min(i + stride, codes.size());
        std::uint32_t advance = 0;
        for (std::size_t k = i; k < end; ++k) advance += gaps[k] + 1U;
        if (row * std::uint64_t{outline_.cols} >= position + advance) {
            position += advance;
            i = end;
            continue;
        }
        for (; i < end; ++i) {
            const std::uint64_t before = position;
            position += gaps[i];
            for (; row < outline_.rows && row * std::uint64_t{outline_.cols} <= position; ++row) {
                starts_[row] = i;
                offsets_[row] = static_cast<std::uint32_t>(before - row * outline_.cols);
            }
            ++position;
        }
    }
    std::fill(starts_.begin() + static_cast<std::ptrdiff_t>(row), starts_.end(), codes.size());
}

}  // namespace tersor::spmm
