// How the kernels of convolutions see an image and the filters.
//
//   word    32 bits of one position: one float, two 16-bit channels or four 8-bit channels
//   vector  a word each of 16 positions: the lanes
//   tile    up to 28 vectors of outputs, whose sums stay in registers
//   patch   what a tile reads of some channels, copied so that each tap of the kernel is one
//   aligned
//           run of vectors
//
//   rows: a tile is R rows of Z vectors        flat: the outputs in one line, a tile is the next T
//   patch of a channel, 3 x 3 kernel:          patch of a channel:
//     left column of taps    row 0: Z vectors    tap (0, 0)  T vectors
//                            ...                 tap (0, 1)  T vectors
//                            row R + 1           ...
//     middle column of taps  row 0               tap (2, 2)  T vectors
//     right column of taps   ...
//
//   filter, for the channels of a patch: (offset, weight) for each word that is not 0
//   sums[t] += patch[offset + t] * weight for t in [0, T)
//
// Of batches, the lanes can be 16 images: a tile is T columns of a row of outputs, and its patch
// has one vector for each pixel that they read, without copies.
//
// The columns of taps are copies of the same rows, shifted by the lanes that the taps lie apart;
// the rows of taps share them, as the tap below begins one row later. A patch stays in the first
// cache, and each multiply-add takes its vector from there.
#pragma once

#include <cstddef>
#include <cstdint>

namespace tersor::conv {

inline constexpr std::size_t lanes = 16;
inline constexpr std::size_t most_vectors = 28;  // of a tile

/// An entry's offset counts as many bytes of the patch.
inline constexpr std::size_t offset_unit = 8;
inline constexpr std::size_t vector_bytes = lanes * sizeof(std::uint32_t);
inline constexpr std::size_t most_patch_vectors = 65536 * offset_unit / vector_bytes;

/// Entries past the last one that kernels may read.
inline constexpr std::size_t entry_slack = 8;

/// What a tile is; `images` has an image in each lane.
enum class Cut : std::uint8_t { rows, flat, images };

enum class Word : std::uint8_t { floats, pairs, quads };
inline constexpr std::size_t word_kinds = 3;

[[nodiscard]] constexpr std::size_t channels_of(Word word) noexcept {
    return std::size_t{1} << static_cast<unsigned>(word);
}

/// Activations as pairs are integers from -pair_scale to pair_scale, as quads from 0 to 255.
inline constexpr int pair_scale = 8191;
inline constexpr int quad_scale = 254;

/// Where the words of a vector lie in a plane: at `first` and after it, with the step of the patch;
/// those lanes whose bit is not set are padding.
struct VectorSource {
    std::int32_t first = 0;
    std::uint32_t mask = 0;
};

/// The same for words that lie anywhere: by lane, negative for padding.
struct IndexedSource {
    std::int32_t lane[lanes];
};

/// How the words of a patch's vectors lie.
enum class Step : std::uint8_t { one, two, indexed };

/// Where the outputs of a vector belong in a plane of y: `count` of them from `first` on.
struct VectorTarget {
    std::int32_t first = 0;
    std::uint32_t count = 0;
};

}  // namespace tersor::conv
