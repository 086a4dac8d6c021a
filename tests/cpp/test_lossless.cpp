#include "tersor/lossless.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <numeric>
#include <random>
#include <string>
#include <utility>

#include "isa_test.hpp"
#include "lossless/kernels.hpp"
#include "support/element_types.hpp"
#include "tersor/huffman.hpp"

namespace tersor {
namespace {

using Bytes = std::vector<std::uint8_t>;
using Shape = std::vector<std::uint64_t>;

constexpr std::size_t small = 700;
constexpr std::size_t large = 2 * (std::size_t{1} << 17) + 4321;  // of several blocks

/// As files have them: the lowest byte of each element first.
Bytes bytes_of(const auto& values) {
    constexpr std::size_t width = sizeof(values[0]);
    Bytes bytes(values.size() * width);
    std::memcpy(bytes.data(), values.data(), bytes.size());
    if constexpr (std::endian::native == std::endian::big) {
        for (auto at = bytes.begin(); at != bytes.end(); at += width) std::reverse(at, at + width);
    }
    return bytes;
}

std::vector<float> gaussian(std::size_t count, float deviation, unsigned seed = 1) {
    std::mt19937 generator(seed);
    std::normal_distribution<float> distribution(0.0F, deviation);
    std::vector<float> values(count);
    for (float& value : values) value = distribution(generator);
    return values;
}

std::vector<std::uint16_t> upper_halves(const std::vector<float>& values) {
    std::vector<std::uint16_t> halves;
    for (const float value : values) {
        halves.push_back(static_cast<std::uint16_t>(std::bit_cast<std::uint32_t>(value) >> 16));
    }
    return halves;
}

Bytes random_bytes(std::size_t size, unsigned seed = 2) {
    std::mt19937 generator(seed);
    Bytes bytes(size);
    for (auto& byte : bytes) byte = static_cast<std::uint8_t>(generator());
    return bytes;
}

std::size_t element_bytes(const std::string& dtype) { return support::element_bytes(dtype); }

Bytes encode(const std::string& dtype, const Bytes& bytes, int threads = 1) {
    return lossless::encode(dtype, Shape{bytes.size() / element_bytes(dtype)}, bytes, threads);
}

Bytes decode(const Bytes& blob, std::size_t size, int threads = 1) {
    Bytes bytes(size);
    throw_if_error(lossless::decode(blob, bytes, {.threads = threads}), "blob");
    return bytes;
}

/// Tensors of every type and of every kind of field, by what they are.
std::vector<std::pair<std::string, Bytes>> cases(std::size_t count) {
    std::vector<std::pair<std::string, Bytes>> all;
    for (const auto& type : support::element_types) {
        const std::string dtype(type.name);
        all.emplace_back(dtype, Bytes(count * type.bytes, 7));
        all.emplace_back(dtype, random_bytes(count * type.bytes));
        Bytes skewed = random_bytes(count * type.bytes, 3);
        for (auto& byte : skewed) byte = static_cast<std::uint8_t>(std::countl_zero(byte) & 7);
        all.emplace_back(dtype, skewed);
    }
    all.emplace_back("F32", bytes_of(gaussian(count, 0.02F)));
    all.emplace_back("BF16", bytes_of(upper_halves(gaussian(count, 0.02F))));
    all.emplace_back("BF16", bytes_of(upper_halves(gaussian(count, 3e30F))));
    // With zeros, which leave no room for bits that would join the exponents of large numbers.
    auto mixed = upper_halves(gaussian(count, 100.0F));
    for (std::size_t i = 5; i < mixed.size(); i += 7777) mixed[i] = 0;
    all.emplace_back("BF16", bytes_of(mixed));
    std::vector<std::int32_t> integers;
    for (const float value : gaussian(count, 50.0F)) {
        integers.push_back(static_cast<std::int32_t>(value));
    }
    all.emplace_back("I32", bytes_of(integers));
    std::vector<std::int64_t> positions(count);
    std::iota(positions.begin(), positions.end(), 0);
    all.emplace_back("I64", bytes_of(positions));
    // A block unlike the others, for which their code is no good.
    auto broken = upper_halves(gaussian(count, 0.02F));
    const Bytes noise = random_bytes(std::min<std::size_t>(count, 140000) * 2);
    std::memcpy(broken.data(), noise.data(), noise.size());
    all.emplace_back("BF16", bytes_of(broken));
    return all;
}

class Lossless : public test::IsaTest {};
TERSOR_ON_EVERY_ISA(Lossless);

TEST_P(Lossless, EveryTypeComesBack) {
    for (const std::size_t count : {std::size_t{1}, std::size_t{7}, small, large}) {
        for (const auto& [dtype, bytes] : cases(count)) {
            const Bytes blob = encode(dtype, bytes);
            lossless::BlobInfo info;
            throw_if_error(lossless::inspect(blob, info), "blob");
            EXPECT_EQ(info.dtype, dtype);
            EXPECT_EQ(info.shape, Shape{count});
            EXPECT_EQ(info.bytes, bytes.size());
            EXPECT_LE(blob.size(), bytes.size() + 14) << dtype;
            EXPECT_EQ(decode(blob, bytes.size()), bytes) << dtype << ' ' << count;
        }
    }
}

TEST_P(Lossless, EveryBitPatternOfShortFloatsComesBack) {
    std::vector<std::uint16_t> all(65536);
    std::iota(all.begin(), all.end(), 0);
    for (const char* dtype : {"BF16", "F16", "I16"}) {
        const Bytes bytes = bytes_of(all);
        EXPECT_EQ(decode(encode(dtype, bytes), bytes.size()), bytes);
    }
}

TEST_P(Lossless, BytesDependNeitherOnLevelNorOnThreads) {
    for (const auto& [dtype, bytes] : cases(large)) {
        const Bytes blob = encode(dtype, bytes);
        EXPECT_EQ(encode(dtype, bytes, 3), blob) << dtype;
        EXPECT_EQ(decode(blob, bytes.size(), 3), bytes) << dtype;
        use_isa(Isa::scalar);
        EXPECT_EQ(encode(dtype, bytes), blob) << dtype;
        use_isa(GetParam());
    }
}

TEST_P(Lossless, RangesDecodeAlone) {
    for (const auto& [dtype, bytes] : cases(large)) {
        const Bytes blob = encode(dtype, bytes);
        const std::size_t width = element_bytes(dtype);
        for (const auto& [first, count] : std::vector<std::pair<std::size_t, std::size_t>>{
                 {0, 1}, {131071, 2}, {131072, 131072}, {70001, 90003}, {large - 1, 1}, {5, 0}}) {
            Bytes part(count * width);
            ASSERT_TRUE(lossless::decode_range(blob, first * width, part).ok());
            EXPECT_TRUE(std::equal(part.begin(), part.end(), bytes.data() + first * width));
        }
    }
}

TEST_P(Lossless, FieldsOfEveryLayoutAreJoinedAsTheyWereCut) {
    using lossless::FieldsOut;
    const std::size_t count = 3 * 64 + 37;
    for (const char* dtype : {"BF16", "F32", "F16", "I16", "U16", "I32", "U32", "I64", "F64"}) {
        lossless::Layout layout = lossless::layout_of(support::element_code(dtype));
        for (int joined = 0; joined <= (layout.joins ? lossless::max_joined : 0); ++joined) {
            for (const bool packed : {false, true}) {
                layout.joined = joined;
                layout.base = static_cast<std::uint8_t>(joined > 0 ? 100 : 0);
                Bytes elements = random_bytes(count * layout.width);
                for (std::size_t i = 0; joined > 0 && i < count; ++i) {  // exponents from 100 on
                    std::uint8_t* top = elements.data() + (i + 1) * layout.width - 1;
                    *top = static_cast<std::uint8_t>((*top & 0x83U) | 0x34U);
                }
                std::vector<Bytes> planes(layout.width, Bytes(count));
                lossless::FieldsOut out{.packed = packed && joined > 0};
                lossless::Fields in{.packed = out.packed};
                for (std::size_t f = 0; f < layout.width; ++f) {
                    planes[f].resize(out.packed && f == 1 ? layout.plain_bytes(1, count) : count);
                    in.bytes[f] = out.bytes[f] = planes[f].data();
                }
                ASSERT_TRUE(lossless::encode_kernels(GetParam())
                                .cut_fields(layout, elements.data(), count, out));
                Bytes joined_again(elements.size());
                lossless::decode_kernels(GetParam())
                    .join_fields(layout, in, count, joined_again.data(), false);
                EXPECT_EQ(joined_again, elements) << dtype << ' ' << joined << ' ' << packed;
            }
        }
    }
}

TEST_P(Lossless, ExponentsWithoutRoomAreTold) {
    lossless::Layout layout = lossless::layout_of(support::element_code("BF16"));
    layout.joined = 1;
    Bytes elements(2 * 200, 0);
    Bytes top(200), second(200);
    const lossless::FieldsOut out{.bytes = {top.data(), second.data()}};
    const auto& kernels = lossless::encode_kernels(GetParam());
    EXPECT_TRUE(kernels.cut_fields(layout, elements.data(), 200, out));
    for (const std::size_t at : {std::size_t{0}, std::size_t{70}, std::size_t{199}}) {
        Bytes large_one = elements;
        large_one[2 * at + 1] = 0x40;  // 2.0
        EXPECT_FALSE(kernels.cut_fields(layout, large_one.data(), 200, out)) << at;
    }
}

double share(const std::string& dtype, const Bytes& bytes) {
    return static_cast<double>(encode(dtype, bytes).size()) / static_cast<double>(bytes.size());
}

TEST(LosslessSize, OfGaussianFloats) {
    const auto values = gaussian(std::size_t{1} << 20, 0.02F);
    EXPECT_LT(share("BF16", bytes_of(upper_halves(values))), 0.660);
    EXPECT_LT(share("F32", bytes_of(values)), 0.830);
}

TEST(LosslessSize, OfWhatRepeats) {
    EXPECT_LT(encode("F32", Bytes(4000000, 0)).size(), 40U);
    auto positions = std::vector<std::int64_t>(512);
    std::iota(positions.begin(), positions.end(), 0);
    EXPECT_LT(share("I64", bytes_of(positions)), 0.20);
    // Floats that were halves before leave their last bytes constant.
    auto values = gaussian(100000, 0.02F);
    for (float& value : values) {
        value = std::bit_cast<float>(std::bit_cast<std::uint32_t>(value) & 0xffff0000U);
    }
    EXPECT_LT(share("F32", bytes_of(values)), 0.335);
}

TEST(LosslessArguments, AreChecked) {
    const Bytes bytes(8);
    EXPECT_THROW((void)lossless::encode("F31", Shape{2}, bytes), std::invalid_argument);
    EXPECT_THROW((void)lossless::encode("F32", Shape{3}, bytes), std::invalid_argument);
    EXPECT_THROW((void)lossless::encode("F32", Shape{UINT64_MAX, 8}, bytes), std::invalid_argument);
    EXPECT_THROW((void)lossless::encode("F32", Shape(9, 1), bytes), std::invalid_argument);
    Bytes blob(10);
    EXPECT_THROW((void)lossless::encode("F32", Shape{2}, bytes, blob), std::invalid_argument);
}

TEST(LosslessArguments, RangesOutsideAreErrors) {
    const Bytes blob = encode("F32", bytes_of(gaussian(100, 1.0F)));
    Bytes part(8);
    EXPECT_EQ(lossless::decode_range(blob, 396, part).status, Status::size_mismatch);
    EXPECT_EQ(lossless::decode_range(blob, 2, part).status, Status::size_mismatch);
    EXPECT_EQ(lossless::decode(blob, part).status, Status::size_mismatch);
    EXPECT_TRUE(lossless::decode_range(blob, 392, part).ok());
}

TEST(LosslessShapes, ScalarsAndEmptyTensorsComeBack) {
    const Bytes four{1, 2, 3, 4};
    for (const auto& [shape, bytes] :
         std::vector<std::pair<Shape, Bytes>>{{{}, four}, {{0, 5}, {}}, {{1, 1, 1}, four}}) {
        const Bytes blob = lossless::encode("F32", shape, bytes);
        lossless::BlobInfo info;
        throw_if_error(lossless::inspect(blob, info), "blob");
        EXPECT_EQ(info.shape, shape);
        EXPECT_EQ(decode(blob, bytes.size()), bytes);
    }
}

/// Every change of a byte is told, and no prefix is taken for a whole blob.
void expect_all_damage_found(const std::string& dtype, const Bytes& bytes) {
    const Bytes blob = encode(dtype, bytes);
    Bytes decoded(bytes.size());
    std::mt19937 generator(5);
    for (std::size_t i = 0; i < 3000; ++i) {
        Bytes damaged = blob;
        const std::size_t at = i < 300 ? i % blob.size() : generator() % blob.size();
        damaged[at] ^= static_cast<std::uint8_t>(1U << generator() % 8);
        EXPECT_FALSE(lossless::decode(damaged, decoded).ok()) << dtype << " at " << at;
        // Without checksums anything may come out, but within its memory.
        (void)lossless::decode(damaged, decoded, {.verify = false});
    }
    for (std::size_t size = 0; size < blob.size(); size += 1 + size / 50) {
        const Bytes shorter(blob.begin(), blob.begin() + static_cast<std::ptrdiff_t>(size));
        EXPECT_FALSE(lossless::decode(shorter, decoded).ok()) << dtype << ' ' << size;
    }
    Bytes longer = blob;
    longer.push_back(0);
    EXPECT_FALSE(lossless::decode(longer, decoded).ok()) << dtype;
}

TEST(LosslessDamage, IsFoundInEveryByte) {
    expect_all_damage_found("BF16", bytes_of(upper_halves(gaussian(small, 0.02F))));
    expect_all_damage_found("BF16", bytes_of(upper_halves(gaussian(140000, 0.02F))));
    expect_all_damage_found("F32", bytes_of(gaussian(140000, 0.02F)));
    expect_all_damage_found("I8", random_bytes(500));
    expect_all_damage_found("BOOL", Bytes(500, 1));
}

TEST(LosslessBombs, AnnounceWithoutAllocating) {
    // Any number of equal elements fits into a few bytes: the caller decides by `inspect`.
    Bytes blob = encode("F32", Bytes(16384 * 4, 0));
    lossless::BlobInfo info;
    throw_if_error(lossless::inspect(blob, info), "blob");
    EXPECT_LT(blob.size(), 40U);
    EXPECT_EQ(info.bytes, 65536U);
    // A shape whose size overflows is refused, one that the blocks do not bear as well; it fits
    // into 32 bits.
    const Bytes overflow{'T',  'S',  'R',  0x21, 0x2c, 2,    0xff, 0xff, 0xff,
                         0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01, 2};
    EXPECT_EQ(lossless::inspect(overflow, info).status, Status::too_large);
    const Bytes many{'T', 'S', 'R', 0x21, 0x22, 1, 0xff, 0xff, 0xff, 0xff, 0x03, 16, 1, 0};
    EXPECT_EQ(lossless::inspect(many, info).status, Status::truncated);
}

}  // namespace
}  // namespace tersor
