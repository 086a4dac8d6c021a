// The kernels that read rows of the canonical form, one column per instruction-set level.
#pragma once

#include <cstddef>
#include <cstdint>

#include "dispatch/kernel_table.hpp"
#include "spmm/rows/entries.hpp"
#include "tersor/isa.hpp"

namespace tersor::spmm::rows {

/// The entries that are no fillers; returns their number. `column` is the column before the first
/// gap. Up to `read_slack` entries past them are overwritten.
using DecodeEntries = std::size_t (*)(const std::uint8_t* gaps, const std::uint8_t* codes,
                                      std::size_t size, std::uint32_t column,
                                      Entry* entries) noexcept;

/// counts[c] = how often code c occurs, for the codes from 1 to `values` - 1, which are all there
/// are beside 0; `counts` has room for 256.
using CountCodes = void (*)(const std::uint8_t* codes, std::size_t size, std::size_t values,
                            std::uint32_t* counts) noexcept;

/// How a row's non-zeros lie, from its gaps and codes; `column` as above. Returns whether the row,
/// where it does not belong to a flat matrix, obeys every rule of csr::validate, and its codes are
/// below `rules.values`.
using RowStatisticsOf = bool (*)(const std::uint8_t* gaps, const std::uint8_t* codes,
                                 std::size_t size, std::uint32_t column, const RowRules& rules,
                                 RowStatistics& statistics) noexcept;

struct Kernels {
#define TERSOR_KERNEL(name, type) type name = nullptr;
#include "spmm/rows/kernels.def"
#undef TERSOR_KERNEL
};

/// CountCodes for any number of values, for levels that have a faster way for few.
void count_codes_by_table(const std::uint8_t* codes, std::size_t size, std::size_t values,
                          std::uint32_t* counts) noexcept;

void install(dispatch::Level<Isa::scalar>, Kernels& kernels) noexcept;
void install(dispatch::Level<Isa::avx512>, Kernels& kernels) noexcept;

/// The kernels of a level.
[[nodiscard]] inline const Kernels& kernels(Isa isa) noexcept {
    return dispatch::KernelTable<Kernels, Isa::scalar, Isa::avx512>::at(isa);
}

}  // namespace tersor::spmm::rows
