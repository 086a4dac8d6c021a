#include "spmm/split_work.hpp"

#include "spmm/panels/layout.hpp"

namespace tersor::spmm {

std::vector<VectorGroup> vector_groups(std::size_t nonzeros, std::size_t cols,
                                       const RowTiles& tiles, std::size_t batch,
                                       std::size_t threads) {
    // What the busiest thread has to do if no group is wider than `most`.
    const auto cost = [&](std::size_t most) {
        const std::size_t groups = (batch + most - 1) / most;
        const std::size_t per_thread = (groups + threads - 1) / threads;
        const std::size_t threads_per_group = std::max<std::size_t>(threads / groups, 1);
        const std::size_t share = (tiles.count() + threads_per_group - 1) / threads_per_group;
        const std::size_t entries = nonzeros / tiles.count() * share * cost_of_lane(most) / 100;
        return per_thread * most * (entries + entries_per_column * cols);
    };
    constexpr std::size_t narrowest = 16;
    std::size_t most = lanes_for(batch);
    for (std::size_t lanes = most / 2; threads > 1 && lanes >= narrowest; lanes /= 2) {
        if (cost(lanes) < cost(most)) most = lanes;
    }
    std::vector<VectorGroup> groups;
    for (std::size_t first = 0, work = 0; first < batch;) {
        const std::size_t lanes = std::min(most, lanes_for(batch - first));
        groups.push_back({first, std::min(lanes, batch - first), lanes, work});
        first += lanes;
        work += lanes * tiles.rows;
    }
    return groups;
}

}  // namespace tersor::spmm
