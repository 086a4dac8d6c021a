// A file of any bytes: opened, verified, its layers decoded and packed.
#include "check_file.hpp"
#include "guarded.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    const tersor::test::GuardedBytes guarded({data, size});
    tersor::fuzz::check_file(guarded.bytes());
    return 0;
}
