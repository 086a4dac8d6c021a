// A RelativeCsr as the tuple of numbers and numpy arrays that Python's dataclass is made of.
#pragma once

#include "bindings.hpp"
#include "tersor/csr.hpp"
#include "tersor/status.hpp"

namespace tersor::bindings {

[[nodiscard]] RelativeCsr to_csr(std::uint32_t rows, std::uint32_t cols, int index_bits, bool flat,
                                 const Array<std::uint8_t>& codes, const Array<std::uint8_t>& gaps,
                                 const Array<std::uint32_t>& row_lengths);

[[nodiscard]] py::tuple from_csr(const RelativeCsr& csr);

}  // namespace tersor::bindings
