// A blob of any bytes under a hash that is right, so that everything behind the hash is reached.
#include <vector>

#include "check_layer.hpp"
#include "guarded.hpp"
#include "layer_problem.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    const std::vector<std::uint8_t> blob = tersor::test::hashed({data, data + size});
    const tersor::test::GuardedBytes guarded(blob);
    tersor::fuzz::check_layer(guarded.bytes());
    return 0;
}
