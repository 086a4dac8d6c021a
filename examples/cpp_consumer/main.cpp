// Classifies images with the LeNet-300-100 that Python compressed, straight from its file:
//   mnist MODEL IMAGES LABELS
#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <fstream>
#include <iterator>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

#include "tersor/tersor.hpp"

namespace {

/// A matrix as the file holds it: coded.
tersor::PackedMatrix load_matrix(const tersor::File& file, const std::string& name) {
    const tersor::TensorView* blob = file.find(name + "_blob");
    if (blob == nullptr) throw std::runtime_error("the file has no layer " + name);
    tersor::PackedMatrix packed;
    throw_if_error(tersor::pack_layer(blob->bytes, packed), name);
    return packed;
}

/// A vector, which may be coded: without loss, or as a matrix is.
std::vector<float> load_vector(const tersor::File& file, const std::string& name) {
    if (const tersor::TensorView* tensor = file.find(name)) {
        const auto* values = reinterpret_cast<const float*>(tensor->bytes.data());
        return {values, values + tensor->bytes.size() / sizeof(float)};
    }
    const tersor::TensorView* blob = file.find(name + "_blob");
    if (blob != nullptr && blob->lossless) {
        tersor::lossless::BlobInfo info;
        throw_if_error(tersor::lossless::inspect(blob->bytes, info), name);
        std::vector<float> values(info.bytes / sizeof(float));
        const std::span bytes(reinterpret_cast<std::uint8_t*>(values.data()), info.bytes);
        throw_if_error(tersor::lossless::decode(blob->bytes, bytes), name);
        return values;
    }
    const tersor::PackedMatrix packed = load_matrix(file, name);
    std::vector<float> values(packed.rows());
    packed.unpack(values);
    return values;
}

/// What follows the header of an idx file: 4 bytes, and 4 for each dimension.
std::vector<unsigned char> load_idx(const char* path) {
    std::ifstream stream(path, std::ios::binary);
    const int dimensions = stream.ignore(3).get();
    stream.ignore(4 * dimensions);
    std::vector<unsigned char> bytes{std::istreambuf_iterator<char>(stream), {}};
    if (bytes.empty()) throw std::runtime_error(std::string(path) + " is no idx file");
    return bytes;
}

void classify(const char* model, const char* images_path, const char* labels_path) {
    tersor::File file;
    throw_if_error(tersor::File::open(model, file), model);
    throw_if_error(file.verify(), model);
    struct Layer {
        tersor::PackedMatrix weight;
        std::vector<float> bias;
    };
    std::vector<Layer> layers;
    for (const std::string name : {"ip1", "ip2", "ip3"}) {
        layers.push_back({load_matrix(file, name + ".weight"), load_vector(file, name + ".bias")});
    }
    const std::vector<unsigned char> pixels = load_idx(images_path);
    const std::vector<unsigned char> labels = load_idx(labels_path);
    const std::size_t count = labels.size();
    std::vector<float> x(pixels.size());
    for (std::size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>(pixels[i]) / 255.0F;

    const auto start = std::chrono::steady_clock::now();
    for (const Layer& layer : layers) {
        const bool last = &layer == &layers.back();
        std::vector<float> y(count * layer.weight.rows());
        tersor::spmm::multiply(
            layer.weight, std::span<const float>(x), count,
            {.bias = std::span<const float>(layer.bias),
             .activation = last ? tersor::Activation::none : tersor::Activation::relu,
             .residual = {}},
            std::span<float>(y));
        x = std::move(y);
    }
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
    const std::size_t classes = x.size() / count;
    std::size_t right = 0;
    for (std::size_t i = 0; i < count; ++i) {
        const auto scores = x.begin() + static_cast<std::ptrdiff_t>(i * classes);
        right += std::max_element(scores, scores + classes) - scores == labels[i];
    }
    std::printf("accuracy %.2f %%\n%.0f images per second\n",
                100.0 * static_cast<double>(right) / static_cast<double>(count),
                static_cast<double>(count) / seconds.count());
}

}  // namespace

int main(int argc, char** argv) try {
    if (argc != 4) throw std::runtime_error("usage: mnist MODEL IMAGES LABELS");
    classify(argv[1], argv[2], argv[3]);
} catch (const std::exception& error) {
    std::fprintf(stderr, "mnist: %s\n", error.what());
    return 1;
}
