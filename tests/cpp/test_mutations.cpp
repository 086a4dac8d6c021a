// Damaged files: each ends in an error with a position. TERSOR_MUTATIONS is how many random damages
// are tried.
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>

#include "guarded.hpp"
#include "support/little_endian.hpp"
#include "tersor/container.hpp"
#include "tersor/lossless.hpp"

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
    if (clusters == 60) {
        layer.row_factors.assign(rows, 0.5F);
        layer.column_factors.assign(cols, 0.3F);
    }
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
    // A tensor without loss, of words and plain bytes.
    Bytes halves(2 * bias.size());
    for (std::size_t i = 0; i < halves.size(); ++i) {
        halves[i] = static_cast<std::uint8_t>(i % 2 == 0 ? 37 * i : 0x3c - i % 7 / 4);
    }
    const Bytes lossless =
        lossless::encode("BF16", std::vector{std::uint64_t{bias.size()}}, halves);
    tensors.push_back({"norm_blob", "U8", {lossless.size()}, lossless});
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

/// Reads all of a damaged file; whether an error says so.
bool is_refused(std::span<const std::uint8_t> damaged) {
    const test::GuardedBytes guarded(damaged);
    File file;
    Result result = File::parse(guarded.bytes(), file);
    if (result.ok()) result = file.verify();
    if (result.ok()) return false;
    EXPECT_LE(result.count, damaged.size());
    EXPECT_FALSE(describe(result.status).empty());
    return true;
}

TEST(Mutations, EverySingleFlippedBitOfAFileIsRefused) {
    const Bytes bytes = file_with({make_layer(3, 7, ValueKind::shared_fp32, false, 3)}, 8);
    ASSERT_FALSE(is_refused(bytes));
    for (std::size_t bit = 0; bit < bytes.size() * 8; ++bit) {
        Bytes damaged = bytes;
        damaged[bit / 8] = static_cast<std::uint8_t>(damaged[bit / 8] ^ (1U << (bit % 8)));
        EXPECT_TRUE(is_refused(damaged)) << "no hash saw bit " << bit;
    }
}

TEST(Mutations, TruncationAtEveryLengthIsRefused) {
    const Bytes bytes = file_with({make_layer(3, 7, ValueKind::plain_fp16, true, 1)}, 8);
    for (std::size_t size = 0; size < bytes.size(); ++size) {
        const test::GuardedBytes guarded({bytes.data(), size});
        File file;
        EXPECT_FALSE(File::parse(guarded.bytes(), file).ok()) << size;
    }
}

TEST(Mutations, RandomDamageToALargerFileIsRefused) {
    const Bytes bytes = file_with({make_layer(40, 300, ValueKind::shared_fp32, false, 15),
                                   make_layer(120, 300, ValueKind::shared_fp16, true, 60),
                                   make_layer(30, 50, ValueKind::plain_fp32, false, 1)},
                                  8192);
    ASSERT_FALSE(is_refused(bytes));
    const char* wanted = std::getenv("TERSOR_MUTATIONS");
    const long count = wanted != nullptr ? std::strtol(wanted, nullptr, 10) : 20000;
    ASSERT_GT(count, 0);
    const std::size_t header_end = 8 + support::load_little_endian<std::uint64_t>(bytes.data());
    std::mt19937_64 generator(6);
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
        EXPECT_TRUE(damaged == bytes || is_refused(damaged)) << i;
    }
}

}  // namespace
}  // namespace tersor
