// From the blob of a layer to the matrix that multiplies.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

#include "tersor/layer.hpp"
#include "tersor/spmm.hpp"

namespace tersor {

/// Packs a blob while its streams are decoded, a group of rows at a time: for products with few
/// vectors when it has two dimensions, else, as the filters of a convolution, for many. Errors are
/// those of `decode_layer`. `max_bytes` bounds what decoding and packing hold together: a blob that
/// may take more (`LayerInfo::decoded_bytes` and `packing_bytes`) is too_large, before it is
/// packed. Without a bound, `default_max_bytes` of the blob's size is the bound; SIZE_MAX lifts it.
[[nodiscard]] Result pack_layer(std::span<const std::uint8_t> blob, PackedMatrix& packed,
                                std::optional<std::size_t> max_bytes = std::nullopt,
                                int threads = 1);

/// The same from decoded content.
[[nodiscard]] Result pack_layer(const Layer& layer, PackedMatrix& packed, int threads = 1);

}  // namespace tersor
