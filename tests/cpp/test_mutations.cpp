// Damaged files: each ends in an error with a position, or nothing of what hashes cover has
// changed. TERSOR_MUTATIONS is how many random damages are tried.
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>

#include "guarded.hpp"
#include "support/little_endian.hpp"
#include "tersor/container.hpp"

namespace tersor {
namespace {

using Bytes = std::vector<std::uint8_t>;

Layer make_layer(std::uint32_t rows, std::uint32_t cols, ValueKind kind, bool flat,
                 unsigned clusters) {
    std::mt19937 generator(rows);
    Bytes codes(std::size_t{rows} * cols);
    for (auto& code : codes) {
        if (generator() % 8 == 0) code = static_cast<std::uint8_t>(1 + generator() % clusters);
    }
    Layer layer{{rows, cols}, kind, csr::encode(codes, rows, cols, 4, flat), {}};
    const std::size_t count = is_shared(kind) ? clusters : csr::validate(layer.csr).count;
    for (std::size_t i = 0; i < count; ++i) layer.values.push_back(static_cast<float>(i) - 1);
    return layer;
}

/// The bytes of a file with these layers, "0" and so on, and two ordinary tensors.
Bytes file_with(const std::vector<Layer>& layers, std::size_t bias_bytes) {
    std::vector<Bytes> blobs;
    for (const Layer& layer : layers) blobs.push_back(encode_layer(layer));
    Bytes bias(bias_bytes);
    for (std::size_t i = 0; i < bias.size(); ++i) bias[i] = static_cast<std::uint8_t>(31 * i);
    std::vector<TensorToWrite> tensors = {{"bias", "F16", {bias.size() / 2}, bias},
                                          {"scale", "F64", {1}, std::span(bias).first(8)}};
    for (std::size_t i = 0; i < blobs.size(); ++i) {
        std::string name = std::to_string(i);
        name += "_blob";
        tensors.push_back({std::move(name), "U8", {blobs[i].size()}, blobs[i]});
    }
    const auto path = std::filesystem::path(::testing::TempDir()) /
                      (std::string("tersor_mutations_") +
                       ::testing::UnitTest::GetInstance()->current_test_info()->name());
    write_file(path.string(), tensors, {{"made by", "a test"}});
    std::ifstream stream(path, std::ios::binary);
    Bytes bytes{std::istreambuf_iterator<char>(stream), std::istreambuf_iterator<char>()};
    std::filesystem::remove(path);
    return bytes;
}

enum class Outcome { refused, harmless };

/// Reads all of a damaged file and holds what was accepted against the original.
Outcome read_damaged(std::span<const std::uint8_t> damaged, const File& original) {
    const test::GuardedBytes guarded(damaged);
    File file;
    Result result = File::parse(guarded.bytes(), file);
    if (result.ok()) result = file.verify();
    if (!result.ok()) {
        EXPECT_LE(result.count, damaged.size());
        EXPECT_FALSE(describe(result.status).empty());
        return Outcome::refused;
    }
    EXPECT_EQ(file.tensors().size(), original.tensors().size());
    for (const TensorView& tensor : file.tensors()) {
        // Without the library's metadata a file promises nothing about its bytes.
        // A blob may have lost its name, which no hash covers; it is then another of the originals.
        const TensorView* same = nullptr;
        for (const TensorView& candidate : original.tensors()) {
            if (std::ranges::equal(candidate.bytes, tensor.bytes)) same = &candidate;
        }
        if (same == nullptr && file.is_tersor()) {
            ADD_FAILURE() << tensor.name << " holds other bytes";
        }
        if (file.is_tersor() && !tensor.compressed) {
            const TensorView* named = original.find(tensor.name);
            EXPECT_NE(named, nullptr) << tensor.name;
            EXPECT_TRUE(named == nullptr ||
                        (named->dtype == tensor.dtype && named->shape == tensor.shape &&
                         std::ranges::equal(named->bytes, tensor.bytes)));
        }
        if (tensor.compressed) {
            Layer layer;
            EXPECT_TRUE(decode_layer(tensor.bytes, layer).ok());
        }
    }
    return Outcome::harmless;
}

TEST(Mutations, EverySingleFlippedBitOfAFileIsRefusedOrHarmless) {
    const Bytes bytes = file_with({make_layer(3, 7, ValueKind::shared_fp32, false, 3)}, 8);
    File original;
    ASSERT_TRUE(File::parse(bytes, original).ok());
    const std::size_t data_begin = 8 + support::load_little_endian<std::uint64_t>(bytes.data());
    std::size_t harmless = 0;
    for (std::size_t bit = 0; bit < bytes.size() * 8; ++bit) {
        Bytes damaged = bytes;
        damaged[bit / 8] = static_cast<std::uint8_t>(damaged[bit / 8] ^ (1U << (bit % 8)));
        if (read_damaged(damaged, original) == Outcome::harmless) {
            EXPECT_LT(bit / 8, data_begin) << "no hash saw bit " << bit;
            ++harmless;
        }
    }
    EXPECT_GT(harmless, 0U);  // the user's metadata is covered by no hash
    EXPECT_LT(harmless, data_begin * 2);
}

TEST(Mutations, TruncationAtEveryLengthIsRefused) {
    const Bytes bytes = file_with({make_layer(3, 7, ValueKind::plain_fp16, true, 1)}, 8);
    for (std::size_t size = 0; size < bytes.size(); ++size) {
        const test::GuardedBytes guarded({bytes.data(), size});
        File file;
        EXPECT_FALSE(File::parse(guarded.bytes(), file).ok()) << size;
    }
}

TEST(Mutations, RandomDamageToALargerFileIsRefusedOrHarmless) {
    const Bytes bytes = file_with({make_layer(40, 300, ValueKind::shared_fp32, false, 15),
                                   make_layer(60, 90, ValueKind::shared_fp16, true, 60),
                                   make_layer(30, 50, ValueKind::plain_fp32, false, 1)},
                                  64);
    File original;
    ASSERT_TRUE(File::parse(bytes, original).ok());
    const char* wanted = std::getenv("TERSOR_MUTATIONS");
    const long count = wanted != nullptr ? std::strtol(wanted, nullptr, 10) : 20000;
    ASSERT_GT(count, 0);
    const std::size_t header_end = 8 + support::load_little_endian<std::uint64_t>(bytes.data());
    std::mt19937_64 generator(6);
    long refused = 0;
    for (long i = 0; i < count; ++i) {
        Bytes damaged = bytes;
        // Half of them in the header, where structure is decided.
        const std::size_t range = i % 2 == 0 ? header_end : damaged.size();
        const std::size_t at = generator() % range;
        switch (generator() % 5) {
            case 0: damaged[at] = static_cast<std::uint8_t>(generator()); break;
            case 1:
                for (int n = 0; n < 4; ++n) {
                    damaged[generator() % range] = static_cast<std::uint8_t>(generator());
                }
                break;
            case 2:
                damaged.insert(damaged.begin() + static_cast<std::ptrdiff_t>(at),
                               damaged[generator() % damaged.size()]);
                break;
            case 3: damaged.erase(damaged.begin() + static_cast<std::ptrdiff_t>(at)); break;
            default: std::swap(damaged[at], damaged[generator() % range]);
        }
        refused += read_damaged(damaged, original) == Outcome::refused ? 1 : 0;
    }
    EXPECT_GT(refused, count / 2);
}

}  // namespace
}  // namespace tersor
