// Without memory: streams, layers, files, and the C interface.
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <iterator>
#include <random>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "failing_allocations.hpp"
#include "tersor/c_api.h"
#include "tersor/container.hpp"
#include "tersor/huffman.hpp"
#include "tersor/pack_layer.hpp"

namespace tersor {
namespace {

using test::Bytes;
using test::dense_of;
using test::exempt;
using test::fail_all;
using test::Outcome;

using AllocationOfLayers = test::Allocation;

Bytes some_symbols(std::size_t size) {
    Bytes symbols(size);
    std::mt19937 generator(3);
    for (auto& symbol : symbols)
        symbol = static_cast<std::uint8_t>(generator() % 5 * (generator() % 3));
    return symbols;
}

Layer some_layer(const test::Problem& p, bool shared) {
    Layer layer{{p.rows, p.cols}, ValueKind::shared_fp32, p.csr, {}};
    layer.values.assign(p.codebook.begin() + 1, p.codebook.end());
    if (shared) return layer;
    layer.kind = ValueKind::plain_fp32;
    layer.values.clear();
    for (std::uint8_t& code : layer.csr.codes) {
        if (code == 0) continue;
        layer.values.push_back(p.codebook[code]);
        code = 1;
    }
    return layer;
}

TEST_P(AllocationOfLayers, OfStreams) {
    for (const std::size_t size : {std::size_t{300}, std::size_t{300'000}}) {
        const Bytes symbols = some_symbols(size);
        fail_all([&] { return [&] { return Outcome{{}, huffman::encode(symbols, 2)}; }; });
        const Bytes stream = huffman::encode(symbols);
        fail_all([&] {
            return [&] {
                Bytes decoded(symbols.size());
                const Result result = huffman::decode(stream, decoded, {.threads = 2});
                return Outcome{{static_cast<float>(result.status)}, decoded};
            };
        });
        fail_all([&] {
            return [&] {
                Bytes decoded(symbols.size() / 2);
                const Result result = huffman::decode_range(stream, 100, decoded, {.threads = 2});
                return Outcome{{static_cast<float>(result.status)}, decoded};
            };
        });
    }
}

TEST_P(AllocationOfLayers, OfLayers) {
    const test::Problem p = test::make_problem(60, 200, 0.2, 15, 4);
    for (const bool shared : {true, false}) {
        const Layer layer = some_layer(p, shared);
        fail_all([&] { return [&] { return Outcome{{}, encode_layer(layer)}; }; });
        const Bytes blob = encode_layer(layer);
        fail_all([&] {
            return [&] {
                Layer decoded;
                const Result result = decode_layer(blob, decoded);
                return Outcome{{static_cast<float>(result.status)}, decoded.csr.codes};
            };
        });
        fail_all([&] {
            return [&] {
                Layer decoded;
                const Result result = decode_rows(blob, 3, 20, decoded);
                return Outcome{{static_cast<float>(result.status)}, decoded.csr.codes};
            };
        });
        fail_all([&] {
            return [&] {
                PackedMatrix packed;
                const Result result = pack_layer(blob, packed, SIZE_MAX, 2);
                if (!result.ok()) return Outcome{{static_cast<float>(result.status)}, {}};
                return Outcome{dense_of(packed), {}};
            };
        });
    }
}

/// A file of this library, in a folder of its own.
class AllocationOfFiles : public test::Allocation {
protected:
    AllocationOfFiles()
        : folder_(std::filesystem::path(::testing::TempDir()) /
                  ("tersor_allocation_" + std::to_string(getpid()))),
          path_((folder_ / "m.safetensors").string()) {
        std::filesystem::remove_all(folder_);
        std::filesystem::create_directory(folder_);
        blob_ = encode_layer(some_layer(test::make_problem(60, 200, 0.2, 15, 4), true));
        save();
    }
    ~AllocationOfFiles() override { std::filesystem::remove_all(folder_); }

    void save() const {
        const std::vector<TensorToWrite> tensors = {{"fc.weight_blob", "U8", {blob_.size()}, blob_},
                                                    {"fc.bias", "U8", {bias_.size()}, bias_}};
        write_file(path_, tensors, {{"made by", "a test of what happens without memory"}});
    }
    [[nodiscard]] long files() const {
        const std::filesystem::directory_iterator folder(folder_);
        return std::distance(begin(folder), end(folder));
    }

    std::filesystem::path folder_;
    std::string path_;
    Bytes blob_;
    Bytes bias_ = Bytes(3000, 7);
};

TEST_P(AllocationOfFiles, Saving) {
    fail_all([&] {
        return [&] {
            try {
                save();
            } catch (...) {
                const bool was_exempt = std::exchange(exempt, true);
                EXPECT_EQ(files(), 1);
                exempt = was_exempt;
                throw;
            }
            return Outcome{};
        };
    });
    File file;
    EXPECT_TRUE(File::open(path_, file).ok());
    EXPECT_TRUE(file.verify().ok());
}

TEST_P(AllocationOfFiles, Loading) {
    fail_all([&] {
        return [&] {
            File file;
            const Result result = File::open(path_, file);
            if (!result.ok()) return Outcome{{static_cast<float>(result.status)}, {}};
            const Bytes tensors(file.tensors().size(), 1);
            return Outcome{{static_cast<float>(file.verify().status)}, tensors};
        };
    });
}

TEST_P(AllocationOfFiles, ThroughTheCInterface) {
    const auto checked = [](int status) {
        if (status == TERSOR_NO_MEMORY) throw std::bad_alloc();
        if (status != TERSOR_OK) throw std::runtime_error("another status");
    };
    const std::vector<float> x = test::random_x(std::size_t{40} * 200, 13);
    struct Handles {
        tersor_file* file = nullptr;
        tersor_matrix* matrix = nullptr;
        ~Handles() {
            tersor_free_matrix(matrix);
            tersor_close(file);
        }
    };
    fail_all([&] {
        return [&] {
            Handles made;
            checked(tersor_open(path_.c_str(), &made.file));
            checked(tersor_load_layer(made.file, "fc.weight_blob", 0, 2, &made.matrix));
            std::vector<float> y(std::size_t{40} * 60);
            checked(tersor_multiply(made.matrix, x.data(), 40, nullptr, y.data(), TERSOR_HIGH, 2));
            return Outcome{y, {}};
        };
    });
}

TERSOR_ON_EVERY_ISA(AllocationOfLayers);
TERSOR_ON_EVERY_ISA(AllocationOfFiles);

}  // namespace
}  // namespace tersor
