#include "support/shared_pages.hpp"

#include <gtest/gtest.h>

#include <cstdint>
#include <cstring>
#include <random>
#include <vector>

#include "support/aligned_buffer.hpp"

namespace tersor::support {
namespace {

struct Block {
    unsigned char* memory;
    std::size_t bytes;
    unsigned char filling;
};

Block take(SharedPages& pages, std::size_t bytes, unsigned char filling) {
    auto* const memory = static_cast<unsigned char*>(pages.take(bytes));
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(memory) % cache_line, 0U);
    std::memset(memory, filling, bytes);
    return {memory, bytes, filling};
}

void give(SharedPages& pages, const Block& block) {
    for (const std::size_t at : {std::size_t{0}, block.bytes / 2, block.bytes - 1}) {
        ASSERT_EQ(block.memory[at], block.filling);
    }
    pages.give(block.memory, block.bytes);
}

TEST(SharedPages, BlocksKeepApart) {
    SharedPages pages;
    std::mt19937 random(1);
    std::vector<Block> blocks;
    for (int i = 0; i < 4000; ++i) {
        if (blocks.size() > 40 || (!blocks.empty() && random() % 3 == 0)) {
            const std::size_t place = random() % blocks.size();
            give(pages, blocks[place]);
            blocks[place] = blocks.back();
            blocks.pop_back();
        } else {
            const std::size_t lines = 1 + random() % (std::size_t{1} << (random() % 16));
            blocks.push_back(take(pages, lines * cache_line, static_cast<unsigned char>(i)));
        }
    }
    for (const Block& block : blocks) give(pages, block);
}

TEST(SharedPages, GapsThatTouchBecomeOne) {
    SharedPages pages;
    const Block first = take(pages, huge_page, 1);
    const Block second = take(pages, huge_page, 2);
    const Block third = take(pages, huge_page, 3);
    ASSERT_EQ(second.memory, first.memory + huge_page);
    give(pages, third);
    give(pages, first);
    give(pages, second);
    const Block all = take(pages, 3 * huge_page, 4);
    EXPECT_EQ(all.memory, first.memory);
    give(pages, all);
}

TEST(SharedPages, FreedMemoryServesAgain) {
    SharedPages pages;
    const Block kept = take(pages, huge_page, 1);
    const Block freed = take(pages, huge_page, 2);
    give(pages, freed);
    const Block again = take(pages, huge_page / 2, 3);
    EXPECT_EQ(again.memory, freed.memory);
    give(pages, again);
    give(pages, kept);
}

TEST(AlignedBuffer, KeepsWhatIsLeftWhenItShrinks) {
    AlignedBuffer<std::uint32_t> buffer(std::size_t{1} << 20);
    for (std::size_t i = 0; i < buffer.size(); ++i) buffer[i] = static_cast<std::uint32_t>(i);
    buffer.resize(5000);
    // What was given back may be another's now.
    const AlignedBuffer<std::uint32_t> other(std::size_t{1} << 19);
    EXPECT_EQ(buffer.size(), 5000U);
    EXPECT_LT(buffer.nbytes(), 21000U);
    for (std::size_t i = 0; i < buffer.size(); ++i) ASSERT_EQ(buffer[i], i);
    buffer.resize(10);
    EXPECT_EQ(buffer[9], 9U);
    buffer.resize(20000);
    EXPECT_EQ(buffer[9], 9U);
}

}  // namespace
}  // namespace tersor::support
