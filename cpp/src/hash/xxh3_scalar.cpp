#include "hash/kernels.hpp"
#include "support/little_endian.hpp"

namespace tersor::hash {
namespace {

std::uint64_t read64(const std::uint8_t* p) noexcept {
    return support::load_little_endian<std::uint64_t>(p);
}

void accumulate(Accumulators& sums, const std::uint8_t* in, std::size_t stripes,
                const std::uint8_t* secret) noexcept {
    for (std::size_t s = 0; s < stripes; ++s, in += stripe) {
        const std::uint8_t* key = secret + s % stripes_per_block * 8;
        for (std::size_t i = 0; i < sums.size(); ++i) {
            const std::uint64_t value = read64(in + 8 * i);
            const std::uint64_t keyed = value ^ read64(key + 8 * i);
            sums[i ^ 1] += value;
            sums[i] += (keyed & 0xffffffff) * (keyed >> 32);
        }
        if (s % stripes_per_block != stripes_per_block - 1) continue;
        for (std::size_t i = 0; i < sums.size(); ++i) {
            sums[i] ^= (sums[i] >> 47) ^ read64(secret + secret_size - stripe + 8 * i);
            sums[i] *= prime32_1;
        }
    }
}

}  // namespace

void install(dispatch::Level<Isa::scalar>, Kernels& kernels) noexcept {
    kernels.accumulate = accumulate;
}

}  // namespace tersor::hash
