// What the fields of a tensor are stored as, found from a sample of its elements and then counted.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "lossless/blob.hpp"
#include "lossless/encode_sample.hpp"
#include "tersor/huffman.hpp"

namespace tersor::lossless {

/// The symbols that a code has words for: 0, and these.
struct Covered {
    std::uint8_t from = 0;
    std::uint8_t to = 255;
};

struct Plan {
    Layout layout;
    std::array<FieldCode, max_fields> fields;
    /// By block, the fields that may gain: promising_fields().
    std::vector<std::uint8_t> wanted;
    /// Of a plan from a sample: what each code of field 0 covers, which may lack symbols.
    std::vector<Covered> covered;
};

/// The plan for `count` elements, one at least. Unless `exact` it may be one from a sample, which
/// does in most cases.
[[nodiscard]] Plan plan_fields(const Layout& layout, const std::uint8_t* elements,
                               std::size_t count, bool exact, int threads);

}  // namespace tersor::lossless
