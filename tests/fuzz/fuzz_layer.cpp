// A blob of any bytes under a hash that is right, so that everything behind the hash is reached.
#include <vector>

#include "check_layer.hpp"
#include "guarded.hpp"
#include "hash/xxh3.hpp"
#include "support/little_endian.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    std::vector<std::uint8_t> blob(data, data + size);
    tersor::support::append_little_endian(tersor::hash::xxh3_64(blob), blob);
    const tersor::test::GuardedBytes guarded(blob);
    tersor::fuzz::check_layer(guarded.bytes());
    return 0;
}
