#include "tersor/csr.hpp"

#include <algorithm>
#include <random>

#include "isa_test.hpp"
#include "support/physical_memory.hpp"

namespace tersor {
namespace {

using test::IsaTest;

std::vector<std::uint8_t> random_codes(std::size_t size, double density, unsigned seed) {
    std::mt19937 generator(seed);
    std::vector<std::uint8_t> codes(size);
    for (auto& code : codes) {
        const bool kept = static_cast<double>(generator() % 100000) < density * 100000;
        code = kept ? static_cast<std::uint8_t>(1 + generator() % 255) : std::uint8_t{0};
    }
    return codes;
}

class CsrTest : public IsaTest {};

TEST_P(CsrTest, RoundTripsAndCounts) {
    for (const auto& [rows, cols] : {std::pair{0U, 0U},
                                     {0U, 5U},
                                     {5U, 0U},
                                     {1U, 1U},
                                     {7U, 64U},
                                     {3U, 1000U},
                                     {40U, 130U},
                                     {130U, 1U}}) {
        for (const double density : {0.0, 0.01, 0.3, 1.0}) {
            const auto codes = random_codes(std::size_t{rows} * cols, density, rows + cols);
            for (int bits = csr::min_index_bits; bits <= csr::max_index_bits; ++bits) {
                for (const bool flat : {false, true}) {
                    const RelativeCsr matrix = csr::encode(codes, rows, cols, bits, flat);
                    std::vector<std::uint8_t> back(codes.size(), 99);
                    const Result result = csr::decode(matrix, back);
                    ASSERT_TRUE(result.ok()) << describe(result.status);
                    EXPECT_EQ(back, codes);
                    EXPECT_EQ(result.count + csr::filler_count(matrix), matrix.codes.size());
                    const csr::EntryCount count = csr::count_entries(codes, rows, cols, bits, flat);
                    EXPECT_EQ(count.entries, matrix.codes.size());
                    EXPECT_EQ(count.fillers, csr::filler_count(matrix));
                }
            }
        }
    }
}

TEST_P(CsrTest, BridgesLongRunsAsThePaperDoes) {
    // 3 bits: a filler stands for 8 positions; figure 2 of Deep Compression.
    std::vector<std::uint8_t> codes(16, 0);
    codes[1] = 7;
    codes[4] = 5;
    codes[15] = 3;
    const RelativeCsr matrix = csr::encode(codes, 1, 16, 3);
    EXPECT_EQ(matrix.codes, (std::vector<std::uint8_t>{7, 5, 0, 3}));
    EXPECT_EQ(matrix.gaps, (std::vector<std::uint8_t>{1, 2, 7, 2}));
    EXPECT_EQ(matrix.row_lengths, std::vector<std::uint32_t>{4});
}

TERSOR_ON_EVERY_ISA(CsrTest);

RelativeCsr small() { return {2, 8, 2, false, {1, 0, 2, 3}, {0, 3, 1, 2}, {3, 1}}; }

TEST(CsrValidate, AcceptsTheGoodAndNamesTheFault) {
    const RelativeCsr good = small();
    EXPECT_EQ(csr::validate(good).count, 3U);
    const auto fault = [](auto change) {
        RelativeCsr matrix = small();
        change(matrix);
        return csr::validate(matrix).status;
    };
    EXPECT_EQ(fault([](auto& m) { m.gaps[0] = 4; }), Status::gap_past_end);
    EXPECT_EQ(fault([](auto& m) { m.cols = 6; }), Status::gap_past_end);
    EXPECT_EQ(fault([](auto& m) { m.gaps[1] = 2; }), Status::bad_filler);
    EXPECT_EQ(fault([](auto& m) { m.codes[2] = 0; }), Status::bad_filler);
    EXPECT_EQ(fault([](auto& m) { m.row_lengths[1] = 2; }), Status::size_mismatch);
    EXPECT_EQ(fault([](auto& m) { m.row_lengths[1] = 0; }), Status::size_mismatch);
    EXPECT_EQ(fault([](auto& m) { m.flat = true; }), Status::size_mismatch);
    EXPECT_EQ(fault([](auto& m) { m.gaps.pop_back(); }), Status::size_mismatch);
    EXPECT_EQ(fault([](auto& m) { m.index_bits = 9; }), Status::bad_header);
}

TEST(CsrDenseSize, BelievesOnlyWhatTheEntriesCanBack) {
    static constexpr std::size_t believed = std::size_t{1} << 28;
    const auto size = [](const RelativeCsr& matrix) { return csr::dense_size(matrix, believed); };
    EXPECT_EQ(size(small()).count, 16U);
    EXPECT_EQ(size({1U << 14, 1U << 14, 4, true, {}, {}, {}}).count, std::size_t{1} << 28);
    EXPECT_EQ(size({(1U << 14) + 1, 1U << 14, 4, true, {1}, {0}, {}}).status, Status::too_large);
    EXPECT_EQ(size({UINT32_MAX, UINT32_MAX, 4, true, {1}, {0}, {}}).status, Status::too_large);
    const RelativeCsr all{UINT32_MAX, UINT32_MAX, 4, true, {}, {}, {}};
    EXPECT_EQ(csr::dense_size(all, SIZE_MAX).status, Status::too_large);
    const std::vector<std::uint8_t> many((1U << 20) + 64, 1);
    EXPECT_TRUE(size({(1U << 14) + 1, 1U << 14, 4, true, many, many, {}}).ok());
}

TEST(CsrDenseSize, BelievesByDefaultWhatThisMachineHasRoomFor) {
    const std::size_t room = support::physical_memory() / 8;
    const auto row = static_cast<std::uint32_t>(std::min<std::size_t>(room, UINT32_MAX));
    const RelativeCsr fits{static_cast<std::uint32_t>(room / row), row, 4, true, {}, {}, {}};
    EXPECT_TRUE(csr::dense_size(fits).ok());
    const RelativeCsr larger{2 * fits.rows + 2, row, 4, true, {}, {}, {}};
    EXPECT_EQ(csr::dense_size(larger).status, Status::too_large);
}

TEST(CsrEncode, RefusesWrongArguments) {
    const std::vector<std::uint8_t> codes(6);
    EXPECT_THROW((void)csr::encode(codes, 2, 3, 1), std::invalid_argument);
    EXPECT_THROW((void)csr::encode(codes, 2, 3, 9), std::invalid_argument);
    EXPECT_THROW((void)csr::encode(codes, 2, 4, 4), std::invalid_argument);
}

}  // namespace
}  // namespace tersor
