#include "container/json.hpp"

#include <gtest/gtest.h>

#include "header_problem.hpp"

namespace tersor {
namespace {

using namespace test;

TEST(Json, NestsEightLevelsAndNoMore) {
    container::JsonValue value;
    EXPECT_TRUE(container::parse_json(nested(8), value).ok());
    EXPECT_TRUE(container::parse_json(std::string(8, '[') + std::string(8, ']'), value).ok());
    EXPECT_FALSE(container::parse_json(nested(9), value).ok());
    EXPECT_FALSE(container::parse_json(std::string(9, '[') + std::string(9, ']'), value).ok());
}

}  // namespace
}  // namespace tersor
