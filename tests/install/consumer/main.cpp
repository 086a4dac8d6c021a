// Reads a layer from a file that Python wrote, multiplies it, and prints y, an element a line.
#include <cstdio>
#include <exception>
#include <vector>

#include "tersor/tersor.hpp"

namespace {

void run(const char* path, const char* name) {
    tersor::File file;
    throw_if_error(tersor::File::open(path, file), path);
    const tersor::TensorView* tensor = file.find(name);
    if (tensor == nullptr || !tensor->compressed) {
        throw std::invalid_argument("no such layer in the file");
    }
    tersor::PackedMatrix packed;
    throw_if_error(tersor::pack_layer(tensor->bytes, packed), name);

    std::vector<float> x(packed.cols());
    for (std::size_t k = 0; k < x.size(); ++k) {
        x[k] = static_cast<float>(static_cast<int>(k % 7) - 3) * 0.5F;
    }
    std::vector<float> y(packed.rows());
    tersor::spmm::multiply(packed, x, 1, {}, y);
    for (const float value : y) {
        std::printf("%.9g\n", static_cast<double>(value));
    }
}

}  // namespace

int main(int argc, char** argv) {
    if (argc != 3) {
        std::fprintf(stderr, "usage: consumer FILE TENSOR\n");
        return 2;
    }
    try {
        run(argv[1], argv[2]);
    } catch (const std::exception& error) {
        std::fprintf(stderr, "consumer: %s\n", error.what());
        return 1;
    }
    return 0;
}
