#include <gtest/gtest.h>

#include <cstdint>
#include <vector>

#include "hash/xxh3.hpp"
#include "isa_test.hpp"

namespace tersor {
namespace {

// Made with the reference implementation on bytes (7 i + 13) mod 256.
struct Vector {
    std::size_t size;
    std::uint64_t hash;
};
constexpr Vector vectors[] = {
    {0, 0x2d06800538d394c2},     {1, 0x8a21d78b1538b1c0},    {2, 0x51a687ed1e9ceea7},
    {3, 0xb7e23e9c1ad24e4b},     {4, 0x3fc0c554cc1bfd24},    {8, 0x8e9d87b2621686c2},
    {9, 0xd78b2e5e6eee1a29},     {16, 0x2255ac040382fb28},   {17, 0x80297144ea363493},
    {32, 0x16fee2662e59e552},    {33, 0xb3448912bbd87087},   {64, 0x6bac8aff06c2031b},
    {65, 0xfa378035e9d04f75},    {96, 0x58d628124d830ab0},   {97, 0xd4ac9d5aab7bf154},
    {128, 0xa03b5825ff901dc3},   {129, 0x41ec3e4722a25af7},  {240, 0x38b97a24f68efc13},
    {241, 0xa59556a86c6a6ea6},   {256, 0xa778510b7ac1383e},  {512, 0x334ad26dae1f76f1},
    {1023, 0x611e946468eda60d},  {1024, 0xf9c1054610f5a6a3}, {1025, 0x67372fe80e1bef4f},
    {1088, 0xf436e4305b526910},  {1089, 0x4a18ca86bc28e1b1}, {4096, 0xe08aaaddcdc1d3e7},
    {10000, 0xd63289e2feca85a5},
};

class Xxh3 : public test::IsaTest {};

TEST_P(Xxh3, MatchesTheReference) {
    for (const auto& [size, hash] : vectors) {
        std::vector<std::uint8_t> bytes(size);
        for (std::size_t i = 0; i < size; ++i) bytes[i] = static_cast<std::uint8_t>(7 * i + 13);
        EXPECT_EQ(hash::xxh3_64(bytes), hash) << size;
    }
}

TERSOR_ON_EVERY_ISA(Xxh3);

}  // namespace
}  // namespace tersor
