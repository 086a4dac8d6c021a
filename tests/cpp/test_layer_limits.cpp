// What blobs may make a reader allocate.
#include <gtest/gtest.h>

#include "layer_problem.hpp"
#include "tersor/pack_layer.hpp"

namespace tersor {
namespace {

using namespace test;

/// Of what does not fit 32 bits nothing but that can be told.
constexpr bool addresses_are_short = sizeof(std::size_t) < sizeof(std::uint64_t);

TEST(LayerDecode, ObeysTheMemoryLimit) {
    const auto blob = encode_layer(make_layer(ValueKind::shared_fp32, true));
    Layer back;
    EXPECT_EQ(decode_layer(blob, back, 16).status, Status::too_large);
    EXPECT_TRUE(decode_layer(blob, back, 1 << 20).ok());
}

TEST(LayerDecode, CountsEveryPartOfTheContentAgainstTheLimit) {
    for (const bool flat : {false, true}) {
        for (const ValueKind kind : {ValueKind::shared_fp16, ValueKind::plain_fp32}) {
            for (const With with : {With::none, With::both}) {
                const Layer layer = make_layer(kind, flat, with);
                const auto blob = encode_layer(layer);
                // Each row's length is below 128: one byte of varint, four bytes decoded.
                const std::size_t needed =
                    2 * layer.csr.codes.size() + 5 * layer.csr.row_lengths.size() +
                    4 * layer.values.size() +
                    9 * (layer.row_factors.size() + layer.column_factors.size());
                Layer back;
                EXPECT_EQ(decode_layer(blob, back, needed - 1).status, Status::too_large);
                EXPECT_TRUE(decode_layer(blob, back, needed).ok());
            }
        }
    }
}

TEST(LayerDecode, RefusesConstantStreamsThatAnnounceTheMoon) {
    // 2^20 x 2^20 weights, one value, all entries (code 1, gap 0), in constant streams.
    const std::vector<std::uint8_t> stream_of_2_to_40 = {0x80, 0x80, 0x80, 0x80, 0x80, 0x20, 0};
    std::vector<std::uint8_t> blob = {'T',  'S',  'R', 1, 0x0c, 2, 0x80, 0x80, 0x40, 0x80,
                                      0x80, 0x40, 1,   0, 8,    8, 0,    0,    0x80, 0x3f};
    for (const std::uint8_t symbol : {std::uint8_t{1}, std::uint8_t{0}}) {
        blob.insert(blob.end(), stream_of_2_to_40.begin(), stream_of_2_to_40.end());
        blob.push_back(symbol);
    }
    support::append_little_endian(hash::xxh3_64(blob), blob);
    Layer layer;
    LayerInfo info;
    EXPECT_EQ(decode_layer(blob, layer).status, Status::too_large);
    if (addresses_are_short) {
        EXPECT_EQ(inspect_layer(blob, info, true).status, Status::too_large);
        return;
    }
    EXPECT_TRUE(inspect_layer(blob, info, true).ok());  // which decodes nothing
    EXPECT_EQ(info.nonzeros, std::uint64_t{1} << 40);
    EXPECT_GT(info.decoded_bytes, std::uint64_t{1} << 41);
}

/// A blob without entries: 2 or 1 dimensions as varints, and flat, or with the stream of row
/// lengths.
Bytes blob_without_entries(unsigned dimensions, const Bytes& shape, const Bytes* row_lengths) {
    Bytes blob = {'T', 'S', 'R', 1,
                  static_cast<std::uint8_t>(row_lengths != nullptr ? 0x08 : 0x0c)};
    blob.push_back(static_cast<std::uint8_t>(dimensions));
    blob.insert(blob.end(), shape.begin(), shape.end());
    const Bytes nothing = {0, 0, 1, 1, 0, 0};  // values, fillers, two streams of no symbols
    blob.insert(blob.end(), nothing.begin(), nothing.end());
    if (row_lengths != nullptr) blob.insert(blob.end(), row_lengths->begin(), row_lengths->end());
    return hashed(std::move(blob));
}

TEST(LayerDecode, AFewBytesTakeNoGigabytesUnlessTheCallerSaysSo) {
    const Bytes most = {0xff, 0xff, 0xff, 0xff, 0x0f};  // 2^32 - 1
    const Bytes one = {1};
    const auto shape = [](Bytes rows, const Bytes& cols) {
        rows.insert(rows.end(), cols.begin(), cols.end());
        return rows;
    };
    const auto pack = [](const Bytes& blob) {
        PackedMatrix packed;
        return pack_layer(blob, packed).status;
    };
    Layer layer;
    LayerInfo info;
    // Flat, of as many rows as there are.
    const Bytes rows = blob_without_entries(2, shape(most, one), nullptr);
    ASSERT_LT(rows.size(), 32U);
    EXPECT_EQ(pack(rows), Status::too_large);
    // So many rows of equal length.
    const Bytes lengths = {0xff, 0xff, 0xff, 0xff, 0x0f, 0, 0};
    const Bytes by_rows = blob_without_entries(2, shape(most, one), &lengths);
    EXPECT_EQ(decode_layer(by_rows, layer).status, Status::too_large);
    EXPECT_EQ(decode_rows(by_rows, 0, 1, layer).status, Status::too_large);
    EXPECT_EQ(pack(by_rows), Status::too_large);
    // A vector, which becomes dense.
    const Bytes vector = blob_without_entries(1, most, nullptr);
    EXPECT_EQ(decode_layer(vector, layer).status, Status::too_large);
    ASSERT_TRUE(inspect_layer(vector, info).ok());
    EXPECT_EQ(info.decoded_bytes, 5 * std::uint64_t{UINT32_MAX});
    // Rows of a flat matrix are cut out of the dense one.
    const Bytes wide = blob_without_entries(2, shape(most, most), nullptr);
    EXPECT_EQ(decode_rows(wide, 0, 1, layer).status, Status::too_large);
    // So many columns take nothing where nothing stands in them.
    const Bytes two_to_14 = {0x80, 0x80, 1};
    const Bytes zeros = {0x80, 0x80, 1, 0, 0};
    const Bytes empty = blob_without_entries(2, shape(two_to_14, most), &zeros);
    ASSERT_LT(empty.size(), 40U);
    PackedMatrix packed;
    ASSERT_TRUE(pack_layer(empty, packed).ok());
    EXPECT_EQ(packed.cols(), UINT32_MAX);
    EXPECT_LT(packed.nbytes(), std::size_t{1} << 20);
}

TEST(LayerDecode, TheBoundFollowsFromTheBlobsSizeAndIsLifted) {
    EXPECT_EQ(default_max_bytes(0), std::size_t{1} << 30);
    EXPECT_EQ(default_max_bytes(1000), (std::size_t{1} << 30) + 256'000);
    EXPECT_EQ(default_max_bytes(SIZE_MAX / 2), SIZE_MAX);
    // Of 2^28 rows and a few more, the lengths alone take more than a gigabyte.
    const Bytes shape = {0x80, 0x80, 0x80, 0x80, 1, 1};
    const Bytes lengths = {0x80, 0x80, 0x80, 0x80, 1, 0, 0};
    const Bytes blob = blob_without_entries(2, shape, &lengths);
    Layer layer;
    LayerInfo info;
    EXPECT_EQ(decode_layer(blob, layer).status, Status::too_large);
    if (addresses_are_short) {
        EXPECT_EQ(inspect_layer(blob, info).status, Status::too_large);
        return;
    }
    ASSERT_TRUE(inspect_layer(blob, info).ok());
    EXPECT_EQ(decode_layer(blob, layer, info.decoded_bytes - 1).status, Status::too_large);
}

}  // namespace
}  // namespace tersor
