#include <algorithm>
#include <cstdint>
#include <stdexcept>
#include <vector>

#include "support/shares.hpp"
#include "tersor/pack_layer.hpp"

namespace tersor {

std::vector<Result> pack_layers(std::span<const std::span<const std::uint8_t>> blobs,
                                std::span<PackedMatrix> packed, std::size_t max_bytes,
                                int threads) {
    if (packed.size() != blobs.size()) {
        throw std::invalid_argument("pack_layers: there is not one matrix for each blob");
    }
    std::uint64_t total = 0;
    for (const auto& blob : blobs) total += blob.size();
    std::vector<Result> results(blobs.size());
    // One that is more than a thread's part would keep the others waiting.
    const std::uint64_t part = total / static_cast<std::uint64_t>(std::max(threads, 1));
    std::vector<std::size_t> beside;
    std::vector<std::uint64_t> sizes;
    for (std::size_t i = 0; i < blobs.size(); ++i) {
        if (blobs[i].size() > part) {
            results[i] = pack_layer(blobs[i], packed[i], max_bytes, threads);
        } else {
            beside.push_back(i);
            sizes.push_back(blobs[i].size());
        }
    }
    support::for_each_task(sizes, threads, [&](std::size_t task) {
        const std::size_t i = beside[task];
        results[i] = pack_layer(blobs[i], packed[i], max_bytes, 1);
    });
    return results;
}

}  // namespace tersor
