// The names of the precision classes, as torch.set_float32_matmul_precision has them.
#pragma once

#include <string>

#include "tersor/spmm.hpp"

namespace tersor::bindings {

/// Throws std::invalid_argument for an unknown name.
[[nodiscard]] Precision parse_precision(const std::string& name);

}  // namespace tersor::bindings
