#include "tersor/pack_layer.hpp"

#include <gtest/gtest.h>

#include <random>
#include <vector>

#include "hash/xxh3.hpp"
#include "isa_test.hpp"
#include "support/little_endian.hpp"

namespace tersor {
namespace {

using Bytes = std::vector<std::uint8_t>;

Layer make_layer(std::vector<std::uint64_t> shape, double density, unsigned clusters, bool flat) {
    std::uint32_t cols = 1;
    for (std::size_t d = 1; d < shape.size(); ++d) cols *= static_cast<std::uint32_t>(shape[d]);
    const auto rows = static_cast<std::uint32_t>(shape[0]);
    std::mt19937 generator(5);
    const auto kept = static_cast<std::uint32_t>(density * 1000);
    Bytes codes(std::size_t{rows} * cols);
    for (auto& code : codes) {
        const std::uint32_t drawn = generator();
        if (drawn % 1000 < kept) code = static_cast<std::uint8_t>(1 + (drawn >> 16) % clusters);
    }
    Layer layer{
        std::move(shape), ValueKind::shared_fp32, csr::encode(codes, rows, cols, 4, flat), {}};
    for (unsigned c = 1; c <= clusters; ++c)
        layer.values.push_back(0.5F * static_cast<float>(c) - 3.25F);
    return layer;
}

std::vector<float> unpacked(const PackedMatrix& packed) {
    std::vector<float> dense(std::size_t{packed.rows()} * packed.cols());
    packed.unpack(dense);
    return dense;
}

class PackLayerTest : public test::IsaTest {};

TEST_P(PackLayerTest, BlobsBecomeWhatTheirContentDoes) {
    // The first has some groups of rows, and blocks of its streams that end inside rows.
    for (const Layer& layer :
         {make_layer({1500, 4096}, 0.3, 15, false), make_layer({700, 3000}, 0.05, 40, false),
          make_layer({33, 500}, 0.1, 3, true), make_layer({40, 6, 5, 5}, 0.4, 200, false),
          make_layer({0, 7}, 0.1, 3, false), make_layer({3, 70000}, 0.02, 9, false)}) {
        const Bytes blob = encode_layer(layer);
        PackedMatrix content;
        ASSERT_TRUE(pack_layer(layer, content).ok());
        std::vector<std::uint8_t> codes(std::size_t{layer.csr.rows} * layer.csr.cols);
        ASSERT_TRUE(csr::decode(layer.csr, codes).ok());
        std::vector<float> dense(codes.size());
        for (std::size_t i = 0; i < dense.size(); ++i) {
            if (codes[i] != 0) dense[i] = layer.values[codes[i] - 1U];
        }
        for (const int threads : {1, 3}) {
            PackedMatrix packed;
            const Result result = pack_layer(blob, packed, SIZE_MAX, threads);
            ASSERT_TRUE(result.ok());
            EXPECT_EQ(result.count, csr::validate(layer.csr).count);
            EXPECT_EQ(packed.nonzeros(), result.count);
            EXPECT_EQ(packed.nbytes(), content.nbytes());
            ASSERT_EQ(unpacked(packed), dense) << layer.csr.rows << ' ' << threads;
        }
    }
}

TEST_P(PackLayerTest, FaultsInLateRowsAreNamed) {
    const Layer layer = make_layer({1500, 4096}, 0.3, 15, false);
    std::vector<float> codebook(layer.values.size() + 1);
    std::copy(layer.values.begin(), layer.values.end(), codebook.begin() + 1);
    const std::size_t entries = layer.csr.codes.size();
    const auto pack_changed = [&](auto change) {
        RelativeCsr csr = layer.csr;
        change(csr);
        PackedMatrix packed;
        return spmm::pack(csr, codebook, packed);
    };
    const auto expect = [](const Result& result, Status status, std::size_t at) {
        EXPECT_EQ(result.status, status);
        EXPECT_EQ(result.count, at);
    };
    const std::size_t at = entries - 1000;
    expect(pack_changed([&](RelativeCsr& csr) { csr.gaps[at] = 200; }), Status::gap_past_end, at);
    expect(pack_changed([&](RelativeCsr& csr) { csr.codes[at] = 77; }), Status::code_past_codebook,
           at);
    expect(pack_changed([&](RelativeCsr& csr) {
               csr.codes[at] = 0;
               csr.gaps[at] = 3;
           }),
           Status::bad_filler, at);
    expect(pack_changed([&](RelativeCsr& csr) { csr.row_lengths.back() += 1; }),
           Status::size_mismatch, 1499);
    expect(pack_changed([&](RelativeCsr& csr) { csr.gaps.pop_back(); }), Status::size_mismatch, 0);
    expect(pack_changed([&](RelativeCsr& csr) { csr.row_lengths.pop_back(); }),
           Status::size_mismatch, 0);
    expect(pack_changed([&](RelativeCsr& csr) { csr.index_bits = 9; }), Status::bad_header, 0);
}

TEST_P(PackLayerTest, MaxBytesBoundsPackingToo) {
    // In the last two a step of 16 rows has a single entry, and windows lead over long gaps.
    Layer sparse = make_layer({16, 65000}, 0.0, 3, false);
    Bytes codes(std::size_t{16} * 65000);
    for (std::size_t i = 0; i < 500; ++i) codes[i % 16 * 65000 + 130 * i] = 1;
    sparse.csr = csr::encode(codes, 16, 65000, 8, false);
    Layer tall = make_layer({5000, 200}, 0.0, 3, false);
    codes.assign(std::size_t{5000} * 200, 0);
    for (std::size_t row = 0; row < 5000; ++row) codes[row * 200 + row % 16 * 12] = 1;
    tall.csr = csr::encode(codes, 5000, 200, 8, false);
    for (const Layer& layer :
         {make_layer({150, 4096}, 0.3, 15, false), make_layer({700, 3000}, 0.05, 40, false),
          make_layer({33, 500}, 0.9, 3, true), make_layer({40, 6, 5, 5}, 0.4, 200, false),
          make_layer({3, 70000}, 0.02, 9, false), make_layer({0, 7}, 0.1, 3, false), sparse,
          tall}) {
        const Bytes blob = encode_layer(layer);
        LayerInfo info;
        ASSERT_TRUE(inspect_layer(blob, info).ok());
        const std::uint64_t needed = info.decoded_bytes + info.packing_bytes;
        Layer content;
        ASSERT_TRUE(decode_layer(blob, content, needed - 1).ok());
        PackedMatrix packed;
        const Result refused = pack_layer(blob, packed, needed - 1);
        ASSERT_EQ(refused.status, Status::too_large);
        ASSERT_GT(refused.count, 0U);
        ASSERT_LT(refused.count, blob.size());
        ASSERT_TRUE(pack_layer(blob, packed, needed).ok());
        ASSERT_LE(packed.nbytes(), info.packing_bytes) << info.nonzeros;
    }
}

TERSOR_ON_EVERY_ISA(PackLayerTest);

TEST(PackLayer, NamesWhatDecodingNames) {
    for (const bool flat : {false, true}) {
        Bytes body = encode_layer(make_layer({4, 30}, 0.2, 3, flat));
        body.resize(body.size() - 8);
        for (std::size_t at = 0; at < body.size(); ++at) {
            for (unsigned value = 0; value < 256; ++value) {
                Bytes blob = body;
                blob[at] = static_cast<std::uint8_t>(value);
                support::append_little_endian(hash::xxh3_64(blob), blob);
                Layer layer;
                PackedMatrix packed;
                const Result decoded = decode_layer(blob, layer, 1 << 20);
                if (decoded.ok() && layer.csr.rows > 1000) continue;
                const Result result = pack_layer(blob, packed, 1 << 20);
                ASSERT_EQ(result.status, decoded.status) << at << ' ' << value;
                if (!decoded.ok()) {
                    ASSERT_EQ(result.count, decoded.count) << at << ' ' << value;
                }
            }
        }
    }
}

}  // namespace
}  // namespace tersor
