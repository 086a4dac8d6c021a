// How a batch is split among threads: groups of vectors times tiles of rows, in the order of the
// groups. A thread takes a run of tiles, and makes for itself what it needs of a group's vectors.
#pragma once

#include <algorithm>
#include <cstddef>
#include <vector>

namespace tersor::spmm {

/// Vectors that pass over the rows together.
struct VectorGroup {
    std::size_t first;
    std::size_t vectors;
    std::size_t lanes;  // their places; some may stay empty
    std::size_t work;   // of the groups before, in rows times lanes
};

/// Tiles of rows, equally large but for the last.
struct RowTiles {
    std::size_t rows;
    std::size_t tile_rows;

    [[nodiscard]] std::size_t count() const noexcept { return (rows + tile_rows - 1) / tile_rows; }
};

/// The work of all groups, in rows times lanes.
[[nodiscard]] inline std::size_t work_of(const std::vector<VectorGroup>& groups,
                                         const RowTiles& tiles) noexcept {
    return groups.empty() ? 0 : groups.back().work + groups.back().lanes * tiles.rows;
}

/// The first tile of a group that falls to whom the work from `at` on falls.
[[nodiscard]] inline std::size_t tile_at(const VectorGroup& group, const RowTiles& tiles,
                                         std::size_t at) noexcept {
    if (at <= group.work) return 0;
    const std::size_t rows = (at - group.work) / group.lanes;
    if (rows >= tiles.rows) return tiles.count();
    return std::min(tiles.count(), (rows + tiles.tile_rows / 2) / tiles.tile_rows);
}

/// What an entry takes for each lane, in hundredths of what it takes where 64 lie side by side; and
/// the making of one lane of a column of a panel, in entries. Measured on AVX-512.
[[nodiscard]] constexpr std::size_t cost_of_lane(std::size_t lanes) noexcept {
    return lanes >= 64 ? 100 : lanes >= 32 ? 111 : 147;
}
inline constexpr std::size_t entries_per_column = 17;

/// Groups of a batch as wide as the vectors that are left make sensible, and narrower where some
/// threads, of which there is one at least, would have nothing to do.
[[nodiscard]] std::vector<VectorGroup> vector_groups(std::size_t nonzeros, std::size_t cols,
                                                     const RowTiles& tiles, std::size_t batch,
                                                     std::size_t threads);

/// Calls `visit(group, tile_begin, tile_end)` for what falls to the pieces [begin, end) of `pieces`
/// equal ones.
template <class Visit>
void for_each_share(const std::vector<VectorGroup>& groups, const RowTiles& tiles,
                    std::size_t pieces, std::size_t begin, std::size_t end, const Visit& visit) {
    const std::size_t work = work_of(groups, tiles);
    const auto place = [&](std::size_t piece) {
        return work / pieces * piece + work % pieces * piece / pieces;
    };
    for (const VectorGroup& group : groups) {
        const std::size_t first = tile_at(group, tiles, place(begin));
        const std::size_t last = tile_at(group, tiles, place(end));
        if (first < last) visit(group, first, last);
    }
}

}  // namespace tersor::spmm
