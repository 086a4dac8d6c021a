// Runs a test suite once for each instruction set that this machine has, and says which it lacks.
#pragma once

#include <gtest/gtest.h>

#include <iostream>
#include <string>
#include <vector>

#include "tersor/isa.hpp"

namespace tersor::test {

/// Derive a fixture from this, write TEST_P tests, and instantiate with TERSOR_ON_EVERY_ISA.
class IsaTest : public ::testing::TestWithParam<Isa> {
protected:
    void SetUp() override {
        previous_ = isa_in_use();
        use_isa(GetParam());
    }
    void TearDown() override { use_isa(previous_); }

private:
    Isa previous_ = Isa::scalar;
};

inline std::vector<Isa> isas_to_test() {
    std::vector<Isa> present;
    for (const Isa isa : compiled_isas()) {
        if (available(isa)) {
            present.push_back(isa);
        } else {
            // Not in the words of GoogleTest: ctest would take the whole test for skipped, and pass
            // over its failures.
            std::cout << "[   ISAS   ] this machine lacks " << name(isa) << '\n';
        }
    }
    return present;
}

inline std::string isa_test_name(const ::testing::TestParamInfo<Isa>& info) {
    return std::string(name(info.param));
}

}  // namespace tersor::test

#define TERSOR_ON_EVERY_ISA(Fixture)                                                            \
    INSTANTIATE_TEST_SUITE_P(Every, Fixture, ::testing::ValuesIn(tersor::test::isas_to_test()), \
                             tersor::test::isa_test_name)
