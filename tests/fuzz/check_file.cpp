#include "check_file.hpp"

#include <cstdlib>

#include "check_layer.hpp"
#include "check_lossless.hpp"
#include "tersor/container.hpp"

namespace tersor::fuzz {

void check_file(std::span<const std::uint8_t> bytes) {
    File file;
    const Result opened = File::parse(bytes, file);
    if (!opened.ok()) {
        if (opened.count > bytes.size()) std::abort();
        return;
    }
    std::size_t covered = 0;
    for (const TensorView& tensor : file.tensors()) {
        covered += tensor.bytes.size();
        if (file.find(tensor.name) != &tensor) std::abort();
        const Result verified = file.verify(tensor);
        if (!verified.ok() && verified.count > bytes.size()) std::abort();
        if (tensor.lossless) {
            check_lossless(tensor.bytes);
        } else if (tensor.compressed) {
            check_layer(tensor.bytes);
        }
    }
    if (covered > bytes.size()) std::abort();
}

}  // namespace tersor::fuzz
