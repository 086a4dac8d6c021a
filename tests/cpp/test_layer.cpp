#include "tersor/layer.hpp"

#include <gtest/gtest.h>

#include <random>
#include <stdexcept>

#include "support/little_endian.hpp"
#include "support/xxh3.hpp"

namespace tersor {
namespace {

Layer make_layer(ValueKind kind, bool flat) {
    std::mt19937 generator(3);
    std::vector<std::uint8_t> codes(6 * 40);
    const unsigned clusters = is_shared(kind) ? 5 : 1;
    for (auto& code : codes) {
        code = generator() % 4 == 0 ? static_cast<std::uint8_t>(1 + generator() % clusters)
                                    : std::uint8_t{0};
    }
    Layer layer{{6, 2, 4, 5}, kind, csr::encode(codes, 6, 40, 3, flat), {}};
    const std::size_t count = is_shared(kind) ? clusters : csr::validate(layer.csr).count;
    for (std::size_t i = 0; i < count; ++i)
        layer.values.push_back(0.25F * static_cast<float>(i) - 1);
    return layer;
}

class LayerTest : public ::testing::TestWithParam<std::tuple<int, bool>> {
protected:
    Layer layer =
        make_layer(static_cast<ValueKind>(std::get<0>(GetParam())), std::get<1>(GetParam()));
};

TEST_P(LayerTest, RoundTripsAndEveryByteIsCounted) {
    const auto blob = encode_layer(layer);
    Layer back;
    ASSERT_TRUE(decode_layer(blob, back).ok());
    EXPECT_EQ(back, layer);
    LayerInfo info;
    ASSERT_TRUE(inspect_layer(blob, info, true).ok());
    EXPECT_EQ(info.shape, layer.shape);
    EXPECT_EQ(info.entries, layer.csr.codes.size());
    EXPECT_EQ(info.nonzeros, csr::validate(layer.csr).count);
    EXPECT_EQ(info.total_bytes, blob.size());
    EXPECT_EQ(info.header_bytes + info.value_bytes + info.code_bytes + info.gap_bytes +
                  info.row_length_bytes,
              blob.size());
}

TEST_P(LayerTest, EveryTruncationAndEveryFlippedBitIsAnError) {
    const auto blob = encode_layer(layer);
    Layer back;
    for (std::size_t size = 0; size < blob.size(); ++size) {
        EXPECT_FALSE(decode_layer(std::span(blob).first(size), back).ok()) << size;
    }
    for (std::size_t bit = 0; bit < blob.size() * 8; ++bit) {
        auto damaged = blob;
        damaged[bit / 8] = static_cast<std::uint8_t>(damaged[bit / 8] ^ (1U << (bit % 8)));
        const Result result = decode_layer(damaged, back);
        EXPECT_FALSE(result.ok()) << bit;
        EXPECT_LE(result.count, blob.size());
    }
}

INSTANTIATE_TEST_SUITE_P(Every, LayerTest,
                         ::testing::Combine(::testing::Range(0, 4), ::testing::Bool()));

TEST(LayerDecode, ObeysTheMemoryLimit) {
    const auto blob = encode_layer(make_layer(ValueKind::shared_fp32, true));
    Layer back;
    EXPECT_EQ(decode_layer(blob, back, 16).status, Status::too_large);
    EXPECT_TRUE(decode_layer(blob, back, 1 << 20).ok());
}

TEST(LayerDecode, RefusesConstantStreamsThatAnnounceTheMoon) {
    // 2^20 x 2^20 weights, one value, all entries (code 1, gap 0), in constant streams.
    const std::vector<std::uint8_t> stream_of_2_to_40 = {0x80, 0x80, 0x80, 0x80, 0x80, 0x20, 0};
    std::vector<std::uint8_t> blob = {'T',  'S',  'R', 0, 0x0c, 2, 0x80, 0x80, 0x40, 0x80,
                                      0x80, 0x40, 1,   8, 8,    0, 0,    0x80, 0x3f};
    for (const std::uint8_t symbol : {std::uint8_t{1}, std::uint8_t{0}}) {
        blob.insert(blob.end(), stream_of_2_to_40.begin(), stream_of_2_to_40.end());
        blob.push_back(symbol);
    }
    support::append_little_endian(support::xxh3_64(blob), blob);
    Layer layer;
    LayerInfo info;
    EXPECT_EQ(decode_layer(blob, layer).status, Status::too_large);
    EXPECT_EQ(inspect_layer(blob, info, true).status, Status::too_large);
}

TEST(LayerEncode, RefusesPartsThatDoNotFit) {
    const auto broken = [](auto change) {
        Layer layer = make_layer(ValueKind::shared_fp32, false);
        change(layer);
        return layer;
    };
    EXPECT_THROW((void)encode_layer(broken([](Layer& l) { l.shape = {6, 41}; })),
                 std::invalid_argument);
    EXPECT_THROW((void)encode_layer(broken([](Layer& l) { l.values.resize(2); })),
                 std::invalid_argument);
    EXPECT_THROW((void)encode_layer(broken([](Layer& l) { l.kind = ValueKind::plain_fp32; })),
                 std::invalid_argument);
    EXPECT_THROW((void)encode_layer(broken([](Layer& l) {
                     l.kind = ValueKind::shared_fp16;
                     l.values[0] = 1e9F;
                 })),
                 std::invalid_argument);
}

}  // namespace
}  // namespace tersor
