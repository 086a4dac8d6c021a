// What the fields of a tensor are stored as, found from a sample of its elements and then counted.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "lossless/blob.hpp"
#include "tersor/huffman.hpp"

namespace tersor::lossless {

struct Plan {
    Layout layout;
    std::array<FieldCode, max_fields> fields;
};

/// The plan for `count` elements, one at least.
[[nodiscard]] Plan plan_fields(const Layout& layout, const std::uint8_t* elements,
                               std::size_t count, int threads);

}  // namespace tersor::lossless
