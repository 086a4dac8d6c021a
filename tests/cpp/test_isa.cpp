#include <gtest/gtest.h>

#if defined(__linux__) && defined(__x86_64__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include <algorithm>
#include <array>
#include <cstdlib>
#include <stdexcept>

#include "dispatch/cpu_features.hpp"
#include "dispatch/kernel_table.hpp"
#include "tersor/isa.hpp"

namespace tersor {
namespace {

TEST(Isa, NamesRoundTrip) {
    for (std::size_t i = 0; i < isa_count; ++i) {
        const auto isa = static_cast<Isa>(i);
        EXPECT_EQ(isa_from_name(name(isa)), isa);
    }
    EXPECT_EQ(isa_from_name("sse9"), std::nullopt);
    EXPECT_EQ(isa_from_name("AVX2"), std::nullopt);
}

TEST(Isa, ScalarIsAlwaysThere) {
    ASSERT_FALSE(compiled_isas().empty());
    EXPECT_EQ(compiled_isas().front(), Isa::scalar);
    EXPECT_TRUE(available(Isa::scalar));
}

TEST(Isa, UseSelectsAndRefuses) {
    const Isa before = isa_in_use();
    EXPECT_TRUE(available(before));
    use_isa(Isa::scalar);
    EXPECT_EQ(isa_in_use(), Isa::scalar);
    use_isa(before);
    for (std::size_t i = 0; i < isa_count; ++i) {
        const auto isa = static_cast<Isa>(i);
        if (!available(isa)) {
            EXPECT_THROW(use_isa(isa), std::invalid_argument) << name(isa);
        }
    }
    EXPECT_EQ(isa_in_use(), before);
}

#if defined(__linux__) && defined(__x86_64__)
/// The states of registers that the process may use; 0 where the system does not say.
std::uint64_t permitted_states() {
    constexpr long get_permitted = 0x1022;  // ARCH_GET_XCOMP_PERM
    std::uint64_t states = 0;
    return syscall(SYS_arch_prctl, get_permitted, &states) == 0 ? states : 0;
}

TEST(Isa, TilesAreAskedForWhenTheirLevelIsChosen) {
    if (!available(Isa::amx)) GTEST_SKIP() << "this machine lacks amx";
    constexpr std::uint64_t tiles = std::uint64_t{1} << 18;
    use_isa(Isa::avx2);
    EXPECT_EQ(permitted_states() & tiles, 0U);
    use_isa(Isa::amx);
    EXPECT_NE(permitted_states() & tiles, 0U);
}
#endif

TEST(IsaDeathTest, EnvironmentNamesTheLevel) {
    GTEST_FLAG_SET(death_test_style, "fast");
    EXPECT_EXIT(
        {
            setenv("TERSOR_ISA", "scalar", 1);
            std::exit(isa_in_use() == Isa::scalar ? 0 : 1);
        },
        ::testing::ExitedWithCode(0), "");
    EXPECT_EXIT(
        {
            setenv("TERSOR_ISA", "avx9000", 1);
            try {
                (void)isa_in_use();
            } catch (const std::invalid_argument& error) {
                const std::string_view what = error.what();
                std::exit(
                    what.find("avx9000") != what.npos && what.find("scalar") != what.npos ? 0 : 1);
            }
            std::exit(2);
        },
        ::testing::ExitedWithCode(0), "");
}

struct Numbers {
    int first = 0;
    int second = 0;
};
void install(dispatch::Level<Isa::scalar>, Numbers& numbers) noexcept { numbers = {1, 1}; }
[[maybe_unused]] void install(dispatch::Level<Isa::avx2>, Numbers& numbers) noexcept {
    numbers.first = 2;
}
[[maybe_unused]] void install(dispatch::Level<Isa::avx512>, Numbers& numbers) noexcept {
    numbers.second = 3;
}

/// Whether the level's functions may be executed here.
bool runs(Isa isa) { return dispatch::is_built(isa) && dispatch::machine_has(isa); }

TEST(KernelTable, LevelsInheritWhatTheyDoNotReplace) {
    using Table = dispatch::KernelTable<Numbers, Isa::scalar, Isa::avx2, Isa::avx512>;
    const int first = runs(Isa::avx2) ? 2 : 1;
    EXPECT_EQ(Table::at(Isa::scalar).first, 1);
    EXPECT_EQ(Table::at(Isa::avx2).first, first);
    EXPECT_EQ(Table::at(Isa::avx2).second, 1);
    EXPECT_EQ(Table::at(Isa::avx512).first, first);
    EXPECT_EQ(Table::at(Isa::avx512).second, runs(Isa::avx512) ? 3 : 1);
    EXPECT_EQ(Table::at(Isa::amx).second, Table::at(Isa::avx512).second);
    EXPECT_EQ(Table::at(Isa::neon).first, 1);
}

/// Levels whose `install` was called: it is compiled for its level, and may crash elsewhere.
std::array<bool, isa_count> called;

struct Calls {};
template <Isa isa>
void install(dispatch::Level<isa>, Calls& /*kernels*/) noexcept {
    called[static_cast<std::size_t>(isa)] = true;
}

TEST(KernelTable, NothingRunsThatTheMachineLacks) {
    static_cast<void>(
        dispatch::KernelTable<Calls, Isa::scalar, Isa::avx2, Isa::avx512, Isa::amx, Isa::neon>::at(
            Isa::scalar));
    for (std::size_t i = 0; i < isa_count; ++i) {
        const auto isa = static_cast<Isa>(i);
        EXPECT_EQ(called[i], runs(isa)) << name(isa);
    }
}

}  // namespace
}  // namespace tersor
