// Writes the seeds of the fuzz targets: make_seeds FOLDER, which has a folder for each target.
#include <algorithm>
#include <cstdio>
#include <fstream>
#include <random>
#include <span>
#include <string>

#include "container/index.hpp"
#include "hash/xxh3.hpp"
#include "tersor/container.hpp"
#include "tersor/huffman.hpp"
#include "tersor/layer.hpp"
#include "tersor/lossless.hpp"

namespace {

using Bytes = std::vector<std::uint8_t>;

void write(const std::string& path, const Bytes& bytes) {
    std::ofstream stream(path, std::ios::binary);
    stream.write(reinterpret_cast<const char*>(bytes.data()),
                 static_cast<std::streamsize>(bytes.size()));
    if (!stream) std::fprintf(stderr, "cannot write %s\n", path.c_str());
}

Bytes random_codes(std::size_t size, unsigned clusters, unsigned one_in) {
    std::mt19937 generator(1);
    Bytes codes(size);
    for (auto& code : codes) {
        if (generator() % one_in == 0) code = static_cast<std::uint8_t>(1 + generator() % clusters);
    }
    return codes;
}

/// What fuzz_index takes: how many tensors of eight zeros stand beside the index, and the index.
Bytes index_seed(std::span<const tersor::TensorToWrite> tensors, int outside) {
    std::vector<const tersor::TensorToWrite*> members;
    for (const auto& tensor : tensors) members.push_back(&tensor);
    std::ranges::reverse(members);  // wide elements first
    const std::vector<std::uint64_t> hashes(static_cast<std::size_t>(outside),
                                            tersor::hash::xxh3_64(Bytes(8)));
    const Bytes index = tersor::container::encode_index(members, hashes, 1);
    Bytes seed = {static_cast<std::uint8_t>(outside)};
    seed.insert(seed.end(), index.begin(), index.end() - 8);
    return seed;
}

/// Blobs of every type and kind of field, some with two blocks.
void write_lossless_seeds(const std::string& folder) {
    for (const char* dtype : {"BOOL", "F8_E4M3", "I16", "F16", "BF16", "I32", "F32", "I64"}) {
        for (const std::size_t elements :
             {std::size_t{40}, std::size_t{2000}, std::size_t{17000}}) {
            const std::string type = dtype;
            const std::size_t width = type.back() == '4'   ? 8
                                      : type.back() == '2' ? 4
                                      : type.back() == '6' ? 2
                                                           : 1;
            Bytes bytes = random_codes(elements * width, 3, 2);
            for (std::size_t i = width - 1; i < bytes.size(); i += width) bytes[i] |= 0x3cU;
            const Bytes blob =
                tersor::lossless::encode(dtype, std::vector{std::uint64_t{elements}}, bytes);
            write(folder + "/lossless/" + type + "_" + std::to_string(elements), blob);
        }
    }
}

/// A file with a layer and an ordinary tensor, and its index.
void write_file_seeds(const std::string& folder, const std::string& name, const Bytes& blob,
                      int outside) {
    const Bytes bias(400);
    const tersor::TensorToWrite tensors[] = {{"w_blob", "U8", {blob.size()}, blob},
                                             {"b", "F16", {2, 100}, bias}};
    tersor::write_file(folder + "/container/" + name, tensors, {{"k", "\xc3\xbc\n"}});
    write(folder + "/index/" + name, index_seed(tensors, outside));
}

void write_seeds(const std::string& folder) {
    write_lossless_seeds(folder);
    using tersor::ValueKind;
    for (int kind = 0; kind < 4; ++kind) {
        for (const bool flat : {false, true}) {
            const auto value_kind = static_cast<ValueKind>(kind);
            const unsigned clusters = is_shared(value_kind) ? 3 : 1;
            tersor::Layer layer{{4, 3, 5},
                                value_kind,
                                tersor::csr::encode(random_codes(60, clusters, 4), 4, 15, 2, flat),
                                {}};
            layer.values.resize(
                is_shared(value_kind) ? clusters : tersor::csr::validate(layer.csr).count, 0.5F);
            const Bytes blob = encode_layer(layer);
            const std::string name = std::to_string(kind) + (flat ? "f" : "r");
            write(folder + "/layer/" + name, {blob.begin(), blob.end() - 8});
            // The same with factors: of rows on a grid, of columns as fp16 or fp32.
            layer.row_factors = {0.5F, 0.594603539F, 2.0F, 1.0F};  // 2^(1/4) apart
            layer.column_factors.assign(flat ? 15 : 0, kind % 2 == 0 ? 0.75F : 0.3F);
            if (flat) layer.column_factors[4] = -1.0F;
            const Bytes scaled = encode_layer(layer);
            write(folder + "/layer/" + name + "_factors", {scaled.begin(), scaled.end() - 8});
            write_file_seeds(folder, name, blob, kind);
            if (!is_shared(value_kind)) continue;
            // With contexts; the index of such a file is coded.
            layer.entropy = tersor::Entropy::smallest;
            const Bytes coded = encode_layer(layer);
            write(folder + "/layer/" + name + "_contexts", {coded.begin(), coded.end() - 4});
            write_file_seeds(folder, name + "_contexts", coded, kind);
        }
    }
    for (const unsigned clusters : {1U, 5U, 15U, 200U}) {
        for (const std::size_t size :
             {std::size_t{1}, std::size_t{300}, std::size_t{9000}, std::size_t{17000}}) {
            const std::string name = std::to_string(clusters) + "_" + std::to_string(size);
            write(folder + "/huffman/" + name,
                  tersor::huffman::encode(random_codes(size, clusters, 2)));
        }
    }
    for (const bool flat : {false, true}) {
        const auto csr = tersor::csr::encode(random_codes(12 * 40, 7, 6), 12, 40, 3, flat);
        Bytes bytes = {12, 0, 40, 0, static_cast<std::uint8_t>(flat ? 19 : 3)};
        bytes.insert(bytes.end(), csr.row_lengths.begin(), csr.row_lengths.end());
        bytes.insert(bytes.end(), csr.codes.begin(), csr.codes.end());
        bytes.insert(bytes.end(), csr.gaps.begin(), csr.gaps.end());
        write(folder + "/csr/" + (flat ? "flat" : "rows"), bytes);
    }
}

}  // namespace

int main(int argc, char** argv) {
    if (argc != 2) {
        std::fprintf(stderr, "usage: make_seeds FOLDER\n");
        return 2;
    }
    write_seeds(argv[1]);
    return 0;
}
