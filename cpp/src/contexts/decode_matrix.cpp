#include "contexts/matrix.hpp"
#include "contexts/matrix_model.hpp"
#include "contexts/range_coder.hpp"

namespace tersor::contexts {

Grouping grouping_of(std::span<const std::uint64_t> shape) noexcept {
    if (shape.size() == 1) return {1, static_cast<std::size_t>(shape[0]), 1, 1};
    Grouping grouping{static_cast<std::size_t>(shape[0]), static_cast<std::size_t>(shape[1]), 1, 1};
    for (const std::uint64_t taps : shape.subspan(2)) {
        grouping.taps *= static_cast<std::size_t>(taps);
        grouping.width = static_cast<std::size_t>(taps);
    }
    if (grouping.taps == 0) return {grouping.rows, 0, 1, 1};
    grouping.cols *= grouping.taps;
    return grouping;
}

std::uint64_t working_bytes(const Grouping& grouping) noexcept {
    const std::uint64_t columns = grouping.cols;
    return sizeof(std::uint32_t) * (columns + columns / grouping.taps);
}

Result decode_matrix(std::span<const std::uint8_t> stream, const Grouping& grouping,
                     std::span<const float> values, std::uint64_t nonzeros,
                     std::span<std::uint8_t> codes) {
    Decoder decoder(stream);
    MatrixModel<Decoder> model(decoder, grouping, values, nonzeros, codes);
    if (model.code() != 0 || decoder.exhausted()) return {Status::truncated, stream.size()};
    if (!decoder.at_end()) return {Status::trailing_bytes, stream.size()};
    return {Status::ok, stream.size()};
}

}  // namespace tersor::contexts
