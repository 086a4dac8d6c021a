// What convolutions of one geometry and class are computed from: made once, and kept with the
// filters.
#pragma once

#include <cstddef>
#include <memory>
#include <vector>

#include "conv/filters.hpp"
#include "conv/kernels.hpp"
#include "conv/layout.hpp"
#include "conv/tiling.hpp"
#include "support/attachments.hpp"
#include "tersor/conv.hpp"

namespace tersor::conv {

struct Plan final : support::Attachment {
    Shape shape;
    Word word = Word::floats;
    Tiling tiling;
    Filters filters;
    /// Depthwise: how a channel is computed, [filters, taps] weights, and nothing of the above.
    Depthwise depthwise = nullptr;
    std::vector<float> taps;

    [[nodiscard]] std::size_t nbytes() const noexcept override;
};

/// The plan for the class, which may use more exact words where the filters need it. With `images`,
/// for as many as there are lanes: the same plan as without, or one whose lanes are images.
[[nodiscard]] std::shared_ptr<const Plan> plan_for(const PackedMatrix& filters,
                                                   const Geometry& geometry, Precision precision,
                                                   bool images);

}  // namespace tersor::conv
