// A file of any bytes: opened, verified, its layers decoded and packed.
#include <cstdlib>

#include "check_layer.hpp"
#include "guarded.hpp"
#include "tersor/container.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    const tersor::test::GuardedBytes guarded({data, size});
    tersor::File file;
    const tersor::Result opened = tersor::File::parse(guarded.bytes(), file);
    if (!opened.ok()) {
        if (opened.count > size) std::abort();
        return 0;
    }
    std::size_t covered = 0;
    for (const tersor::TensorView& tensor : file.tensors()) {
        covered += tensor.bytes.size();
        if (file.find(tensor.name) != &tensor) std::abort();
        const tersor::Result verified = file.verify(tensor);
        if (!verified.ok() && verified.count > size) std::abort();
        if (tensor.compressed) tersor::fuzz::check_layer(tensor.bytes);
    }
    if (covered > size) std::abort();
    return 0;
}
