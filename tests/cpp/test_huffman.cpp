#include "tersor/huffman.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>
#include <utility>

#include "huffman/bit_sliced_code.hpp"
#include "huffman/bits.hpp"
#include "huffman/kernels.hpp"
#include "huffman/plane_block.hpp"
#include "huffman_problem.hpp"
#include "isa_test.hpp"
#include "support/varint.hpp"

namespace tersor {
namespace {

using namespace test;

std::uint64_t coded_bits(const huffman::Histogram& counts, const huffman::CodeLengths& lengths) {
    std::uint64_t bits = 0;
    for (std::size_t s = 0; s < counts.size(); ++s) bits += counts[s] * lengths[s];
    return bits;
}

double kraft(const huffman::CodeLengths& lengths) {
    double sum = 0.0;
    for (const std::uint8_t length : lengths) {
        if (length != 0) sum += std::ldexp(1.0, -length);
    }
    return sum;
}

TEST(HuffmanCodeLengths, AreOptimalWhereTheLimitDoesNotBind) {
    for (unsigned seed = 0; seed < 20; ++seed) {
        const auto counts = huffman::histogram(random_symbols(500, 0.02 + 0.04 * seed, seed));
        const auto lengths = huffman::code_lengths(counts, 15);
        EXPECT_EQ(coded_bits(counts, lengths), huffman_bits(counts));
        EXPECT_DOUBLE_EQ(kraft(lengths), 1.0);
    }
}

TEST(HuffmanCodeLengths, ObeyTheLimit) {
    huffman::Histogram fibonacci{};
    std::uint64_t a = 1, b = 1;
    for (std::size_t s = 0; s < 30; ++s) {
        fibonacci[s] = a;
        a = std::exchange(b, a + b);
    }
    std::uint64_t previous = ~std::uint64_t{0};
    for (const int limit : {5, 6, 8, 12, 15}) {
        const auto lengths = huffman::code_lengths(fibonacci, limit);
        EXPECT_EQ(*std::max_element(lengths.begin(), lengths.end()), limit);
        EXPECT_DOUBLE_EQ(kraft(lengths), 1.0);
        EXPECT_LE(coded_bits(fibonacci, lengths), previous);
        previous = coded_bits(fibonacci, lengths);
    }
    EXPECT_THROW((void)huffman::code_lengths(fibonacci, 4), std::invalid_argument);
    EXPECT_THROW((void)huffman::code_lengths(fibonacci, 16), std::invalid_argument);
}

/// Peaked symbols below 16: the entropy is that of few bits.
Bytes peaked_symbols(std::size_t size, unsigned seed) {
    std::mt19937 generator(seed);
    std::normal_distribution<double> distribution(8.0, 0.5);
    Bytes symbols(size);
    for (auto& s : symbols) {
        s = static_cast<std::uint8_t>(std::clamp(std::lround(distribution(generator)), 0L, 15L));
    }
    return symbols;
}

std::vector<Bytes> samples() {
    std::vector<Bytes> all = {{}, {7}, Bytes(1000, 3), Bytes(20000, 3), {0, 255}, {1, 2, 3}};
    Bytes flat(512);
    std::iota(flat.begin(), flat.end(), std::uint8_t{0});
    all.push_back(flat);
    for (const std::size_t size : {10, 500, 16383, 16384, 16385, 30000, 140001}) {
        for (const double share : {0.02, 0.2, 0.7, 0.99}) {
            all.push_back(random_symbols(size, share, static_cast<unsigned>(size)));
        }
        all.push_back(peaked_symbols(size, static_cast<unsigned>(size)));
        for (const unsigned alphabet : {2, 3, 16, 17, 33, 100, 256}) {
            all.push_back(flat_symbols(size, alphabet, static_cast<unsigned>(size)));
        }
    }
    return all;
}

class HuffmanStreams : public test::IsaTest {};
TERSOR_ON_EVERY_ISA(HuffmanStreams);

TEST_P(HuffmanStreams, RoundTripAndAreTheSameOnEveryLevel) {
    for (const Bytes& symbols : samples()) {
        const Bytes stream = huffman::encode(symbols);
        huffman::StreamInfo info;
        ASSERT_TRUE(huffman::inspect(stream, info).ok());
        EXPECT_EQ(info.symbols, symbols.size());
        EXPECT_EQ(info.header_bytes + info.payload_bits / 8, stream.size());
        for (const int threads : {1, 3}) {
            Bytes back(symbols.size(), 77);
            const Result result = huffman::decode(stream, back, {.threads = threads});
            ASSERT_TRUE(result.ok()) << describe(result.status) << ' ' << symbols.size();
            EXPECT_TRUE(back == symbols) << symbols.size();
            EXPECT_TRUE(huffman::encode(symbols, threads) == stream);
        }
        use_isa(Isa::scalar);
        EXPECT_TRUE(huffman::encode(symbols) == stream);
        use_isa(GetParam());
    }
}

TEST_P(HuffmanStreams, StoreAlignedStreamsPastTheCaches) {
    const Bytes symbols = random_symbols((std::size_t{1} << 22) + 1000, 0.3, 9);
    const Bytes stream = huffman::encode(symbols);
    Bytes memory(symbols.size() + 64);
    const std::size_t skip = 64 - reinterpret_cast<std::uintptr_t>(memory.data()) % 64;
    const std::span<std::uint8_t> back(memory.data() + skip, symbols.size());
    ASSERT_TRUE(huffman::decode(stream, back).ok());
    EXPECT_TRUE(std::equal(back.begin(), back.end(), symbols.begin()));
}

TEST_P(HuffmanStreams, HistogramsCountEverySymbol) {
    // Alphabets of every width one after the other, so that counting changes its way in between.
    Bytes symbols;
    for (const unsigned alphabet : {16U, 32U, 16U, 256U, 2U, 33U, 16U}) {
        const Bytes part = flat_symbols(70000 + alphabet, alphabet, alphabet);
        symbols.insert(symbols.end(), part.begin(), part.end());
    }
    for (const std::size_t size :
         {std::size_t{0}, std::size_t{1}, std::size_t{511}, std::size_t{70016}, symbols.size()}) {
        huffman::Histogram expected{};
        for (std::size_t i = 0; i < size; ++i) ++expected[symbols[i]];
        EXPECT_EQ(huffman::histogram(std::span(symbols).first(size)), expected) << size;
    }
}

TEST_P(HuffmanStreams, DecodeInPart) {
    for (const Bytes& symbols :
         {random_symbols(300000, 0.2, 1), peaked_symbols(300001, 2), random_symbols(900, 0.2, 3)}) {
        const Bytes stream = huffman::encode(symbols);
        std::mt19937 generator(4);
        for (int i = 0; i < 20; ++i) {
            const std::size_t first = generator() % (symbols.size() + 1);
            const std::size_t size = generator() % (symbols.size() - first + 1);
            Bytes part(size);
            ASSERT_TRUE(huffman::decode_range(stream, first, part).ok());
            EXPECT_TRUE(std::equal(part.begin(), part.end(),
                                   symbols.begin() + static_cast<std::ptrdiff_t>(first)));
        }
        Bytes past(2);
        EXPECT_EQ(huffman::decode_range(stream, symbols.size() - 1, past).status,
                  Status::size_mismatch);
    }
}

TEST_P(HuffmanStreams, DamagedBlocksAreRefused) {
    const Bytes symbols = random_symbols(20000, 0.2, 5);
    const Bytes stream = huffman::encode(symbols);
    Bytes back(symbols.size());
    for (std::size_t bit = 0; bit < stream.size() * 8; bit += 7) {
        Bytes damaged = stream;
        damaged[bit / 8] = static_cast<std::uint8_t>(damaged[bit / 8] ^ (1U << (bit % 8)));
        const Result result = huffman::decode(damaged, back);
        // A flip in the code of the stages can leave a valid code of the same shape.
        EXPECT_TRUE(!result.ok() || bit / 8 < 40) << bit;
        // Without the checksum it may decode wrong, but must not read out of bounds.
        (void)huffman::decode(damaged, back, {.verify = false});
    }
    for (std::size_t size = 0; size < stream.size(); size += 13) {
        const Bytes cut(stream.begin(), stream.begin() + static_cast<std::ptrdiff_t>(size));
        EXPECT_FALSE(huffman::decode(cut, back, {.verify = false}).ok()) << size;
    }
}

/// A code of one stage of a shape, and where it has a tail of one more for two symbols; no stages
/// where a byte has not so many symbols.
huffman::BitSlicedCode code_of_shape(int planes, bool tail,
                                     std::span<const std::uint16_t> suffix_roots) {
    huffman::Stage stage{
        {.planes = planes, .suffixes = static_cast<int>(suffix_roots.size()), .tail = tail}};
    std::copy(suffix_roots.begin(), suffix_roots.end(), stage.suffix_roots.begin());
    const unsigned words = stage.capacity();
    Bytes symbols(words + (tail ? 2 : 0));
    std::iota(symbols.begin(), symbols.end(), std::uint8_t{0});
    huffman::BitSlicedCode code;
    if (symbols.size() > 256) return code;
    code.last_symbol = symbols.back();
    const std::span<const std::uint8_t> all(symbols);
    huffman::assign_words(stage, all.first(words), all.subspan(words), code.last_symbol);
    code.stages.push_back(stage);
    if (tail) {
        huffman::Stage second{{.planes = 1}};
        huffman::assign_words(second, all.subspan(words), {}, code.last_symbol);
        code.stages.push_back(second);
    }
    return code;
}

/// No suffix; one from each root of a few on; and more suffixes from there, or from later roots on.
std::vector<std::vector<std::uint16_t>> choices_of_suffix_roots(unsigned ending_roots, int most) {
    std::vector<std::vector<std::uint16_t>> choices{{}};
    for (std::size_t done = 0; done < choices.size(); ++done) {
        if (choices[done].size() == static_cast<std::size_t>(most)) continue;
        const unsigned first = choices[done].empty() ? 0U : choices[done].back();
        for (const unsigned root : {first, (first + ending_roots) / 2, ending_roots - 1}) {
            if (root >= ending_roots) continue;
            auto longer = choices[done];
            longer.push_back(static_cast<std::uint16_t>(root));
            if (std::find(choices.begin(), choices.end(), longer) == choices.end()) {
                choices.push_back(longer);
            }
        }
    }
    return choices;
}

TEST_P(HuffmanStreams, EveryShapeOfStagesIsCodedAsThePortableKernelsDo) {
    const huffman::EncodeKernels& encoder = huffman::encode_kernels(GetParam());
    const huffman::EncodeKernels& portable = huffman::encode_kernels(Isa::scalar);
    const huffman::DecodeKernels& decoder = huffman::decode_kernels(GetParam());
    huffman::BlockScratch scratch;
    int shapes = 0;
    for (int planes = 1; planes <= huffman::max_stage_bits; ++planes) {
        for (const bool tail : {false, true}) {
            const unsigned ending_roots = (1U << planes) - (tail ? 1U : 0U);
            const int most = std::min(huffman::max_suffixes, huffman::max_stage_bits - planes);
            for (const auto& roots : choices_of_suffix_roots(ending_roots, most)) {
                const huffman::BlockCode code{.planes = code_of_shape(planes, tail, roots)};
                if (code.planes.stages.empty()) continue;
                ++shapes;
                const Bytes symbols =
                    flat_symbols(6000, code.planes.last_symbol + 1U, static_cast<unsigned>(shapes));
                const auto view = huffman::encode_block(portable, code, symbols, scratch);
                const Bytes expected(view.begin(), view.end());
                const auto block = huffman::encode_block(encoder, code, symbols, scratch);
                ASSERT_TRUE(
                    std::equal(block.begin(), block.end(), expected.begin(), expected.end()))
                    << planes << " planes, suffixes from " << testing::PrintToString(roots);
                Bytes back(symbols.size());
                ASSERT_TRUE(
                    huffman::decode_block(decoder, code, expected, 0, back, {}, scratch.parts)
                        .ok());
                ASSERT_EQ(back, symbols)
                    << planes << " planes, suffixes from " << testing::PrintToString(roots);
                Bytes header;
                huffman::append_bit_sliced_code(code.planes, header);
                huffman::BitSlicedCode read;
                ASSERT_TRUE(huffman::read_bit_sliced_code(header, read).ok());
                ASSERT_EQ(read.stages[0].symbols, code.planes.stages[0].symbols);
            }
        }
    }
    EXPECT_GT(shapes, 200);
}

TEST_P(HuffmanStreams, PairsAreSplitWhereverTheyEnd) {
    const huffman::EncodeKernels& encoder = huffman::encode_kernels(GetParam());
    const huffman::DecodeKernels& decoder = huffman::decode_kernels(GetParam());
    huffman::BlockScratch scratch;
    // Around the end of a superblock of pairs the last one of which may be but a half.
    for (const std::size_t size : {1022U, 1023U, 1024U, 1025U, 3071U, 3072U, 5000U, 5001U}) {
        Bytes symbols = flat_symbols(size, 3, static_cast<unsigned>(size));
        std::replace(symbols.begin(), symbols.end(), std::uint8_t{2}, std::uint8_t{15});
        Bytes pairs((size + 1) / 2);
        for (std::size_t i = 0; i < size; ++i) {
            pairs[i / 2] |= static_cast<std::uint8_t>(symbols[i] << (i % 2 * 4));
        }
        const huffman::BlockCode code{
            .planes = huffman::build_bit_sliced_code(huffman::histogram(pairs)), .pairs = true};
        const auto block = huffman::encode_block(encoder, code, symbols, scratch);
        Bytes back(size + 1, 99);  // nothing may be written past the symbols
        huffman::Scratch memory;
        ASSERT_TRUE(
            huffman::decode_block(decoder, code, block, 0, std::span(back).first(size), {}, memory)
                .ok());
        EXPECT_TRUE(std::equal(symbols.begin(), symbols.end(), back.begin())) << size;
        EXPECT_EQ(back[size], 99);
    }
}

TEST(HuffmanStream, SmallStreamsHaveSmallHeaders) {
    const Bytes symbols = random_symbols(500, 0.15, 1);
    const auto counts = huffman::histogram(symbols);
    const double optimal = static_cast<double>(huffman_bits(counts)) / 8;
    EXPECT_LT(static_cast<double>(huffman::encode(symbols).size()), optimal + 28);
}

TEST(HuffmanStream, TruncationAtEveryLengthIsAnError) {
    for (const Bytes& symbols : {random_symbols(300, 0.2, 2), random_symbols(5000, 0.5, 3)}) {
        const Bytes stream = huffman::encode(symbols);
        Bytes back(symbols.size());
        for (std::size_t size = 0; size < stream.size(); ++size) {
            const Bytes cut(stream.begin(), stream.begin() + static_cast<std::ptrdiff_t>(size));
            EXPECT_FALSE(huffman::decode(cut, back).ok()) << size;
        }
        Bytes longer = stream;
        longer.push_back(0);
        EXPECT_FALSE(huffman::decode(longer, back).ok());
    }
}

TEST(HuffmanStream, FlippedBitsNeverReadOutOfBounds) {
    const Bytes symbols = random_symbols(400, 0.2, 4);
    const Bytes stream = huffman::encode(symbols);
    std::size_t refused = 0;
    for (std::size_t bit = 0; bit < stream.size() * 8; ++bit) {
        Bytes damaged = stream;
        damaged[bit / 8] = static_cast<std::uint8_t>(damaged[bit / 8] ^ (1U << (bit % 8)));
        Bytes back(symbols.size());
        const Result result = huffman::decode(damaged, back);
        refused += result.ok() ? 0U : 1U;
        EXPECT_LE(result.count, std::max(damaged.size(), symbols.size()));
    }
    EXPECT_GT(refused, 0U);
}

TEST(HuffmanStream, RefusesBadTables) {
    Bytes back(4);
    // 4 symbols, one bit stream, last symbol 1, lengths 1 and 2: incomplete.
    EXPECT_EQ(huffman::decode(Bytes{4, 2, 1, 0x21, 0}, back).status, Status::bad_code_lengths);
    // Symbols 0, 1, 2 of one bit each: over-subscribed.
    EXPECT_EQ(huffman::decode(Bytes{4, 2, 2, 0x11, 0x01, 0}, back).status,
              Status::bad_code_lengths);
    EXPECT_EQ(huffman::decode(Bytes{4, 9, 0}, back).status, Status::bad_header);
    EXPECT_EQ(huffman::decode(Bytes{0x84, 0x00, 0, 1}, back).status, Status::bad_header);
    EXPECT_EQ(huffman::decode(Bytes{5, 0, 1}, back).status, Status::size_mismatch);
}

TEST(HuffmanEntropy, KnownValues) {
    huffman::Histogram counts{};
    EXPECT_EQ(huffman::entropy(counts), 0.0);
    counts[3] = 5;
    EXPECT_EQ(huffman::entropy(counts), 0.0);
    counts[9] = 5;
    EXPECT_DOUBLE_EQ(huffman::entropy(counts), 1.0);
}

}  // namespace
}  // namespace tersor
