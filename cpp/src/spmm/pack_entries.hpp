// Packing while the entries are read.
#pragma once

#include <span>

#include "spmm/rows/entry_source.hpp"
#include "tersor/spmm.hpp"

namespace tersor::spmm {

/// Packs entries that nobody has validated, as `pack` does, with a codebook of finite values. False
/// where anything is malformed or the number of non-zeros is another: who wants to know what, and
/// where, has to look for it.
[[nodiscard]] bool pack_entries(const CsrOutline& csr, EntrySource& source,
                                std::span<const float> codebook, PackedMatrix& packed,
                                LayoutHint layout_hint, int threads);

}  // namespace tersor::spmm
