#include "tersor/layer.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <stdexcept>

#include "layer_problem.hpp"

namespace tersor {
namespace {

using namespace test;

class LayerTest : public ::testing::TestWithParam<std::tuple<int, bool, With>> {
protected:
    // Of each kind, and of those that are shared with contexts.
    const int kind = std::get<0>(GetParam());
    Layer layer = make_layer(static_cast<ValueKind>(kind % 4), std::get<1>(GetParam()),
                             std::get<2>(GetParam()));

    void SetUp() override {
        if (kind >= 4) layer.entropy = Entropy::smallest;
    }
};

TEST_P(LayerTest, RoundTripsAndEveryByteIsCounted) {
    const auto blob = encode_layer(layer);
    Layer back;
    ASSERT_TRUE(decode_layer(blob, back).ok());
    EXPECT_EQ(back, layer);
    LayerInfo info;
    ASSERT_TRUE(inspect_layer(blob, info, true).ok());
    EXPECT_EQ(info.shape, layer.shape);
    EXPECT_EQ(info.nonzeros, csr::validate(layer.csr).count);
    EXPECT_EQ(info.entropy, layer.entropy);
    EXPECT_EQ(info.entries,
              layer.entropy == Entropy::huffman ? layer.csr.codes.size() : info.nonzeros);
    EXPECT_EQ(info.total_bytes, blob.size());
    EXPECT_EQ(info.factor_bytes != 0, std::get<2>(GetParam()) != With::none);
    EXPECT_EQ(info.header_bytes + info.value_bytes + info.factor_bytes + info.code_bytes +
                  info.gap_bytes + info.row_length_bytes,
              blob.size());
}

TEST_P(LayerTest, RowsAreThoseOfTheWhole) {
    const auto blob = encode_layer(layer);
    const std::size_t rows = layer.csr.rows, cols = layer.csr.cols;
    std::vector<std::uint8_t> whole(rows * cols);
    ASSERT_TRUE(csr::decode(layer.csr, whole).ok());
    for (std::size_t first = 0; first <= rows; ++first) {
        for (std::size_t count = 0; first + count <= rows; ++count) {
            Layer part;
            ASSERT_TRUE(decode_rows(blob, first, count, part).ok()) << first << ' ' << count;
            EXPECT_EQ(part.shape[0], count);
            EXPECT_EQ(part.column_factors, layer.column_factors);
            if (!layer.row_factors.empty()) {
                EXPECT_TRUE(std::ranges::equal(part.row_factors,
                                               std::span(layer.row_factors).subspan(first, count)));
            }
            std::vector<std::uint8_t> codes(count * cols);
            ASSERT_TRUE(csr::decode(part.csr, codes).ok());
            const auto expected = std::span(whole).subspan(first * cols, codes.size());
            EXPECT_TRUE(std::ranges::equal(codes, expected)) << first << ' ' << count;
            if (is_shared(layer.kind)) {
                EXPECT_EQ(part.values, layer.values);
                continue;
            }
            const auto before = std::ranges::count_if(std::span(whole).first(first * cols),
                                                      [](auto code) { return code != 0; });
            EXPECT_TRUE(std::ranges::equal(
                part.values, std::span(layer.values)
                                 .subspan(static_cast<std::size_t>(before), part.values.size())));
        }
    }
    Layer part;
    EXPECT_THROW((void)decode_rows(blob, 3, rows - 2, part), std::invalid_argument);
    EXPECT_THROW((void)decode_rows(blob, rows + 1, 0, part), std::invalid_argument);
    EXPECT_EQ(decode_rows(blob, 0, 1, part, true, 100).status, Status::too_large);
}

TEST_P(LayerTest, RowsOfADamagedBlobAreRefusedOrRows) {
    const auto blob = encode_layer(layer);
    for (std::size_t bit = 0; bit < blob.size() * 8; ++bit) {
        auto damaged = blob;
        damaged[bit / 8] = static_cast<std::uint8_t>(damaged[bit / 8] ^ (1U << (bit % 8)));
        Layer part;
        EXPECT_FALSE(decode_rows(damaged, 1, 2, part).ok()) << bit;
        // Nothing tells damage where the hash is not asked; what comes is a matrix nevertheless.
        try {
            if (decode_rows(damaged, 1, 2, part, false).ok()) {
                EXPECT_TRUE(csr::validate(part.csr).ok()) << bit;
            }
        } catch (const std::invalid_argument&) {  // of fewer rows
        }
    }
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
                         ::testing::Combine(::testing::Range(0, 6), ::testing::Bool(),
                                            ::testing::Values(With::none, With::rows,
                                                              With::channels, With::both)));

// ---- Blobs of two rows of six, changed byte by byte and given a hash that is right

constexpr std::size_t value_count_at = 8;  // after magic, version, flags, dimensions 2, 2, 4
constexpr std::size_t fillers_at = 9;

/// Rows 0 0 0 0 0 1 and 2 0 0 0 0 0: a filler and two non-zeros. With so many lists of factors.
Bytes tiny_blob(ValueKind kind = ValueKind::shared_fp32, int lists = 0,
                Entropy entropy = Entropy::huffman) {
    const bool shared = is_shared(kind);
    const std::vector<std::uint8_t> codes = {
        0, 0, 0, 0, 0, 1, static_cast<std::uint8_t>(shared ? 2 : 1), 0, 0, 0, 0, 0};
    Layer layer{{2, 6}, kind, csr::encode(codes, 2, 6, 2), {0.5F, -1.0F}};
    if (lists == 1) layer.row_factors = {1.0F, 1.68179283F};  // 2^(3/4)
    if (lists == 2) {
        layer.row_factors = {1.5F, -3.0F};
        layer.column_factors = {0.1F, 0.2F, 0.3F, 0.4F, 0.5F, 0.6F};
    }
    layer.entropy = entropy;
    Bytes blob = encode_layer(layer);
    blob.resize(blob.size() - (entropy == Entropy::huffman ? 8 : 4));
    return blob;
}

template <class Change>
Result decode_changed(const Change& change, ValueKind kind = ValueKind::shared_fp32) {
    Bytes body = tiny_blob(kind);
    change(body);
    Layer layer;
    return decode_layer(hashed(std::move(body)), layer);
}

TEST(LayerDecode, NamesWhatIsMalformedUnderAGoodHash) {
    const auto set = [](std::size_t at, std::uint8_t value) {
        return decode_changed([&](Bytes& body) { body[at] = value; }).status;
    };
    EXPECT_EQ(decode_changed([](Bytes&) {}).status, Status::ok);
    EXPECT_EQ(set(0, 'X'), Status::bad_magic);
    EXPECT_EQ(set(3, 2), Status::unsupported_version);
    EXPECT_EQ(set(4, 0x48), Status::bad_header);                // a bit that must be zero
    EXPECT_EQ(set(4, 0x00), Status::bad_header);                // gaps of one bit
    EXPECT_EQ(set(4, 0x0c), Status::trailing_bytes);            // flat, yet with row lengths
    EXPECT_EQ(set(5, 0), Status::bad_header);                   // no dimension
    EXPECT_EQ(set(5, 9), Status::bad_header);                   // nine of them
    EXPECT_EQ(set(7, 5), Status::gap_past_end);                 // narrower than its rows
    EXPECT_EQ(set(6, 3), Status::size_mismatch);                // a row without a length
    EXPECT_EQ(set(6, 1), Status::size_mismatch);                // a length without a row
    EXPECT_EQ(set(value_count_at, 1), Status::trailing_bytes);  // a stream from amid the values
    EXPECT_EQ(set(10, 0x7f), Status::truncated);                // codes past the end
    EXPECT_EQ(set(11, 0x7f), Status::truncated);                // gaps past the end
    EXPECT_EQ(set(15, 0x7f), Status::ok);                       // another value, still finite
    EXPECT_EQ(decode_changed([](Bytes& body) {
                  body[14] = 0x80;
                  body[15] = 0x7f;
              }).status,
              Status::not_finite);
    EXPECT_EQ(decode_changed([](Bytes& body) {  // a varint that is not in its shortest form
                  body[value_count_at] = 0x82;
                  body.insert(body.begin() + value_count_at + 1, 0);
              })
                  .status,
              Status::bad_header);
    EXPECT_EQ(decode_changed([](Bytes& body) {  // one value less than the codes refer to
                  body[value_count_at] = 1;
                  body.erase(body.begin() + 12, body.begin() + 16);
              })
                  .status,
              Status::code_past_codebook);
    EXPECT_EQ(decode_changed([](Bytes& body) { body.push_back(0); }).status,
              Status::trailing_bytes);
}

TEST(LayerDecode, RefusesDimensionsThatOverflow) {
    for (const std::size_t at : {std::size_t{6}, std::size_t{7}}) {
        EXPECT_EQ(decode_changed([&](Bytes& body) {  // 2^35
                      body[at] = 0x80;
                      const Bytes rest = {0x80, 0x80, 0x80, 0x80, 0x01};
                      body.insert(body.begin() + static_cast<std::ptrdiff_t>(at) + 1, rest.begin(),
                                  rest.end());
                  })
                      .status,
                  Status::too_large);
    }
    EXPECT_EQ(decode_changed([](Bytes& body) {  // 2 x 2^31 x 6: the columns overflow 32 bits
                  body[5] = 3;
                  const Bytes wide = {0x80, 0x80, 0x80, 0x80, 0x08};
                  body.insert(body.begin() + 7, wide.begin(), wide.end());
              })
                  .status,
              Status::too_large);
}

TEST(LayerDecode, TheAnnouncedFillersMustBeTrue) {
    for (const ValueKind kind : {ValueKind::shared_fp32, ValueKind::plain_fp32}) {
        ASSERT_EQ(tiny_blob(kind)[fillers_at], 1);
        for (const std::uint8_t fillers : {0, 2, 3, 4, 127}) {
            const Result result =
                decode_changed([&](Bytes& body) { body[fillers_at] = fillers; }, kind);
            EXPECT_EQ(result.status, Status::size_mismatch) << int{fillers};
        }
    }
    Bytes body = tiny_blob();
    body[fillers_at] = 4;  // of three entries
    LayerInfo info;
    const Result result = inspect_layer(hashed(body), info);
    EXPECT_EQ(result.status, Status::size_mismatch);
    EXPECT_EQ(result.count, fillers_at);
}

TEST(LayerDecode, TheHashIsCheckedBeforeTheHeaderIsRead) {
    Bytes blob = hashed(tiny_blob());
    blob[5] = 0;  // no dimension
    Layer layer;
    LayerInfo info;
    EXPECT_EQ(decode_layer(blob, layer).status, Status::hash_mismatch);
    EXPECT_EQ(inspect_layer(blob, info, true).status, Status::hash_mismatch);
    EXPECT_EQ(inspect_layer(blob, info, false).status, Status::bad_header);
}

TEST(LayerInspect, DecodesNothing) {
    // The code words of the damaged stream mean nothing, and inspection does not look.
    const Layer layer = make_layer(ValueKind::shared_fp32, true);
    Bytes blob = encode_layer(layer);
    LayerInfo info;
    ASSERT_TRUE(inspect_layer(blob, info).ok());
    const std::size_t gaps_end = blob.size() - 8;
    const std::size_t codes_end = gaps_end - info.gap_bytes;
    ASSERT_GT(info.code_bits, 0U);
    for (std::size_t at = codes_end - info.code_bits / 8; at < codes_end; ++at) blob[at] ^= 0xff;
    for (std::size_t at = gaps_end - info.gap_bits / 8; at < gaps_end; ++at) blob[at] ^= 0xff;
    LayerInfo damaged;
    ASSERT_TRUE(inspect_layer(blob, damaged).ok());
    EXPECT_EQ(damaged.nonzeros, csr::validate(layer.csr).count);
}

TEST(LayerDecode, SurvivesEveryChangedByteUnderAGoodHash) {
    // Whatever a blob says, it is refused, or it is a layer that keeps the rules.
    for (int which = 0; which < 8; ++which) {
        // Two with factors: of rows on a grid; of rows and columns as fp16 and fp32. The last two
        // with contexts.
        const int kind = which % 4;
        const int lists = which / 4 * (kind % 2 + 1);
        const Bytes body = which < 6
                               ? tiny_blob(static_cast<ValueKind>(kind), lists)
                               : tiny_blob(ValueKind::shared_fp32, kind % 2, Entropy::smallest);
        for (std::size_t at = 0; at < body.size(); ++at) {
            for (unsigned value = 0; value < 256; ++value) {
                Bytes changed = body;
                changed[at] = static_cast<std::uint8_t>(value);
                changed = hashed(std::move(changed));
                Layer layer;
                LayerInfo info;
                const Result result = decode_layer(changed, layer, 1 << 20);
                if (!result.ok()) {
                    EXPECT_LE(result.count, changed.size()) << at << ' ' << value;
                    continue;
                }
                EXPECT_TRUE(csr::validate(layer.csr).ok()) << at << ' ' << value;
                ASSERT_TRUE(inspect_layer(changed, info, true).ok());
                EXPECT_EQ(info.nonzeros, csr::validate(layer.csr).count);
            }
        }
    }
}

TEST(LayerDecode, NamesWhatIsWrongWithFactors) {
    const Bytes body = tiny_blob(ValueKind::shared_fp32, 1);
    constexpr std::size_t at = 12;  // count, kind, first place, size, stream; count of the columns
    const auto changed = [&](const std::vector<std::pair<std::size_t, std::uint8_t>>& changes) {
        Bytes other = body;
        for (const auto& [offset, value] : changes) other[offset] = value;
        Layer layer;
        return decode_layer(hashed(std::move(other)), layer).status;
    };
    EXPECT_EQ(body[3], 0x11);
    EXPECT_EQ(body[at], 2);      // rows
    EXPECT_EQ(body[at + 1], 4);  // a grid of quarter octaves
    EXPECT_EQ(body[at + 2], 0);  // from 2^0 on
    EXPECT_EQ(changed({}), Status::ok);
    EXPECT_EQ(changed({{3, 0x01}}), Status::trailing_bytes);  // factors read as values
    EXPECT_EQ(changed({{3, 0x21}}), Status::unsupported_version);
    EXPECT_EQ(changed({{3, 0x12}}), Status::unsupported_version);
    EXPECT_EQ(changed({{at, 3}}), Status::size_mismatch);  // a factor without a row
    EXPECT_EQ(changed({{at, 1}}), Status::size_mismatch);
    EXPECT_EQ(changed({{at + 1, 9}}), Status::bad_header);  // a kind that is none
    EXPECT_EQ(changed({{at + 3, 0x7f}}), Status::truncated);
    // Places that no normal number has.
    Bytes low = body;
    low[at + 2] = 0xff;
    low.insert(low.begin() + at + 3, 0x7f);
    Layer layer;
    EXPECT_EQ(decode_layer(hashed(low), layer).status, Status::not_finite);
    low.insert(low.begin() + at + 3, {0xff, 0xff});  // and far beyond
    EXPECT_EQ(decode_layer(hashed(low), layer).status, Status::bad_header);
    // Version 1.1 without a factor.
    Bytes none = body;
    none.erase(none.begin() + at + 1, none.begin() + at + 4 + body[at + 3]);
    none[at] = 0;
    EXPECT_EQ(decode_layer(hashed(none), layer).status, Status::bad_header);
    // NaN among factors of fp32.
    Bytes nan = tiny_blob(ValueKind::shared_fp32, 2);
    const std::size_t columns = at + 2 + 2 * 2;
    EXPECT_EQ(nan[columns], 6);
    nan[columns + 4] = 0xc0;
    nan[columns + 5] = 0x7f;
    const Result result = decode_layer(hashed(nan), layer);
    EXPECT_EQ(result.status, Status::not_finite);
    EXPECT_EQ(result.count, columns + 2);
}

TEST(LayerDecode, NamesWhatIsWrongWithContexts) {
    const Bytes body = tiny_blob(ValueKind::shared_fp32, 0, Entropy::smallest);
    constexpr std::size_t nonzeros_at = 9;  // after the number of values
    const auto changed = [&](const auto& change) {
        Bytes other = body;
        change(other);
        Layer layer;
        return decode_layer(hashed(std::move(other)), layer).status;
    };
    const auto with = [&](std::size_t at, std::uint8_t value) {
        return changed([&](Bytes& other) { other[at] = value; });
    };
    EXPECT_EQ(body[3], 0x31);
    EXPECT_EQ(body[nonzeros_at], 2);
    EXPECT_EQ(changed([](Bytes&) {}), Status::ok);
    EXPECT_EQ(with(3, 0x41), Status::unsupported_version);
    EXPECT_EQ(with(4, body[4] | 2U), Status::bad_header);    // values of their own
    EXPECT_EQ(with(4, body[4] | 128U), Status::bad_header);  // a flag that is none
    EXPECT_EQ(with(4, body[4] | 64U), Status::bad_header);   // factors, and no list has one
    EXPECT_EQ(with(nonzeros_at, 13), Status::too_large);     // more than weights
    EXPECT_EQ(with(nonzeros_at, 12), Status::truncated);     // more than the stream has
    EXPECT_EQ(changed([](Bytes& other) { other.insert(other.end(), 9, 1); }),
              Status::trailing_bytes);
    EXPECT_EQ(changed([](Bytes& other) {
                  other[8] = 0;  // no values, of which codes could be
                  other.erase(other.begin() + 10, other.begin() + 18);
              }),
              Status::code_past_codebook);
}

TEST(LayerEncode, ContextsTakeFewerBytes) {
    Layer layer = make_layer(ValueKind::shared_fp16, false);
    const std::size_t words = encode_layer(layer).size();
    layer.entropy = Entropy::smallest;
    EXPECT_LT(encode_layer(layer).size(), words);
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
    EXPECT_THROW((void)encode_layer([] {
                     Layer plain = make_layer(ValueKind::plain_fp32, false);
                     plain.entropy = Entropy::smallest;
                     return plain;
                 }()),
                 std::invalid_argument);
    EXPECT_THROW((void)encode_layer(broken([](Layer& l) {
                     l.kind = ValueKind::shared_fp16;
                     l.values[0] = 1e9F;
                 })),
                 std::invalid_argument);
}

}  // namespace
}  // namespace tersor
