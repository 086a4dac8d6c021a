// The pool of a library that looks like torch's and is loaded after this one.
#include <dlfcn.h>
#include <gtest/gtest.h>

#include <atomic>
#include <stdexcept>
#include <string>
#include <vector>

#include "support/loaded_library.hpp"
#include "tersor/parallel.hpp"

namespace tersor {
namespace {

class BorrowedPool : public ::testing::Test {
protected:
    BorrowedPool() {
        before_ = parallel_runner_name();
        loaded_before_ = support::libraries_loaded();
        library_ = dlopen(TERSOR_FAKE_TORCH, RTLD_NOW | RTLD_LOCAL);
        if (library_ == nullptr) throw std::runtime_error(dlerror());
        failure_ = static_cast<int*>(dlsym(library_, "fake_torch_failure"));
        calls_ = static_cast<int*>(dlsym(library_, "fake_torch_calls"));
    }
    ~BorrowedPool() override { *failure_ = 0; }

    std::string before_;
    unsigned long long loaded_before_ = 0;
    void* library_ = nullptr;
    int* failure_ = nullptr;
    int* calls_ = nullptr;
};

TEST_F(BorrowedPool, IsFoundOnceItIsLoaded) {
    EXPECT_NE(support::libraries_loaded(), loaded_before_);
    EXPECT_NE(before_, "torch");
    EXPECT_EQ(parallel_runner_name(), "torch");
    EXPECT_NE(support::symbol_of_loaded_library(support::torch_library, "torch_parallel_for"),
              nullptr);
    EXPECT_EQ(support::symbol_of_loaded_library(support::torch_library, "no_such_symbol"), nullptr);
    EXPECT_EQ(support::symbol_of_loaded_library("libnothing_of_this_name.so", "f"), nullptr);
    const int calls = *calls_;
    std::vector<int> seen(100);
    parallel_for(100, 3, 4, [&](std::size_t begin, std::size_t end) {
        for (std::size_t i = begin; i < end; ++i) ++seen[i];
    });
    EXPECT_EQ(seen, std::vector<int>(100, 1));
    EXPECT_EQ(*calls_, calls + 1);
}

TEST_F(BorrowedPool, ItsFailureIsAnError) {
    *failure_ = 1;
    std::atomic<int> begun{0};
    try {
        parallel_for(100, 1, 4, [&](std::size_t, std::size_t) { ++begun; });
        ADD_FAILURE() << "nothing was thrown";
    } catch (const std::runtime_error& error) {
        EXPECT_NE(std::string(error.what()).find("torch"), std::string::npos) << error.what();
    }
    EXPECT_EQ(begun, 0);
}

}  // namespace
}  // namespace tersor
