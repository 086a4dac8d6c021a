#include "support/attachments.hpp"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <memory>
#include <stdexcept>

namespace tersor::support {
namespace {

struct Number final : Attachment {
    explicit Number(std::uint32_t v) : value(v) {}
    [[nodiscard]] std::size_t nbytes() const noexcept override { return 100; }
    std::uint32_t value;
};

std::uint32_t get(const Attachments& all, std::uint32_t key, int& made) {
    const auto found = all.get({key}, [&]() -> Attachments::Pointer {
        ++made;
        return std::make_shared<Number>(key);
    });
    return static_cast<const Number&>(*found).value;
}

TEST(Attachments, AreMadeOnceWhileTheyAreAmongTheLastUsed) {
    const Attachments all;
    int made = 0;
    for (std::uint32_t key = 0; key < Attachments::most_kept; ++key) {
        EXPECT_EQ(get(all, key, made), key);
    }
    EXPECT_EQ(get(all, 0, made), 0U);
    EXPECT_EQ(made, static_cast<int>(Attachments::most_kept));
    EXPECT_EQ(all.nbytes(), 100 * Attachments::most_kept);
    // One more drops the one that was not used for longest, which is no longer the first.
    EXPECT_EQ(get(all, 77, made), 77U);
    EXPECT_EQ(get(all, 0, made), 0U);
    EXPECT_EQ(made, static_cast<int>(Attachments::most_kept) + 1);
    EXPECT_EQ(get(all, 1, made), 1U);
    EXPECT_EQ(made, static_cast<int>(Attachments::most_kept) + 2);
    EXPECT_EQ(all.nbytes(), 100 * Attachments::most_kept);
}

TEST(Attachments, OneThatFailsIsMadeAgain) {
    const Attachments all;
    const auto fail = []() -> Attachments::Pointer { throw std::runtime_error("no"); };
    EXPECT_THROW(static_cast<void>(all.get({5}, fail)), std::runtime_error);
    int made = 0;
    EXPECT_EQ(get(all, 5, made), 5U);
    EXPECT_EQ(made, 1);
}

TEST(Attachments, OneInUseOutlivesItsPlace) {
    const Attachments all;
    int made = 0;
    const auto held = all.get({1000}, [] { return std::make_shared<Number>(1000); });
    for (std::uint32_t key = 0; key < 2 * Attachments::most_kept; ++key) get(all, key, made);
    EXPECT_EQ(static_cast<const Number&>(*held).value, 1000U);
}

TEST(Attachments, AreThereInTheChildOfAFork) {
    const Attachments all;
    int made = 0;
    get(all, 3, made);
    const pid_t child = fork();
    if (child == 0) {
        get(all, 3, made);
        get(all, 4, made);
        _exit(made == 2 ? 0 : 1);
    }
    int status = 1;
    ASSERT_EQ(waitpid(child, &status, 0), child);
    EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

}  // namespace
}  // namespace tersor::support
