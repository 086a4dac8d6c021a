// From the blob of a layer to the matrix that multiplies.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

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

/// Packs many blobs on `threads` threads: side by side, but for those that are so large that all
/// threads work on one. Each has the bound and the result that it would have alone, and so has its
/// layout. Throws std::invalid_argument unless `packed` has as many matrices as there are blobs.
[[nodiscard]] std::vector<Result> pack_layers(std::span<const std::span<const std::uint8_t>> blobs,
                                              std::span<PackedMatrix> packed,
                                              std::size_t max_bytes = SIZE_MAX, int threads = 1);

/// One layer from decoded content.
[[nodiscard]] Result pack_layer(const Layer& layer, PackedMatrix& packed, int threads = 1);

}  // namespace tersor
