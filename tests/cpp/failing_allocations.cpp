// Replaces the program's operator new.
#include "failing_allocations.hpp"

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <new>
#include <thread>

#include "tersor/parallel.hpp"

namespace {

std::atomic<long> live{0};                 // blocks
std::atomic<long> left{-1};                // allocations that still succeed; -1: all
std::atomic<bool> fails_from_then{false};  // or the one alone

bool fails_now() noexcept {
    if (tersor::test::exempt || left.load() < 0) return false;
    const long before = left.fetch_sub(1);
    if (before > 0) return false;
    if (fails_from_then) left = 0;
    return true;
}

void* allocate(std::size_t bytes, std::size_t alignment) {
    if (fails_now()) throw std::bad_alloc();
    const std::size_t whole = (bytes + alignment) / alignment * alignment;
    void* const memory = alignment > alignof(std::max_align_t)
                             ? std::aligned_alloc(alignment, whole)
                             : std::malloc(whole);
    if (memory == nullptr) throw std::bad_alloc();
    ++live;
    return memory;
}

void give_back(void* memory) noexcept {
    if (memory == nullptr) return;
    --live;
    std::free(memory);
}

}  // namespace

void* operator new(std::size_t bytes) { return allocate(bytes, 1); }
void* operator new[](std::size_t bytes) { return allocate(bytes, 1); }
void* operator new(std::size_t bytes, std::align_val_t alignment) {
    return allocate(bytes, static_cast<std::size_t>(alignment));
}
void* operator new[](std::size_t bytes, std::align_val_t alignment) {
    return allocate(bytes, static_cast<std::size_t>(alignment));
}
// Who asks like this goes on without memory: its failure is none of the operation.
void* operator new(std::size_t bytes, const std::nothrow_t&) noexcept {
    ++live;
    return std::malloc(bytes);
}
void operator delete(void* memory, const std::nothrow_t&) noexcept { give_back(memory); }
void operator delete(void* memory) noexcept { give_back(memory); }
void operator delete[](void* memory) noexcept { give_back(memory); }
void operator delete(void* memory, std::size_t) noexcept { give_back(memory); }
void operator delete[](void* memory, std::size_t) noexcept { give_back(memory); }
void operator delete(void* memory, std::align_val_t) noexcept { give_back(memory); }
void operator delete[](void* memory, std::align_val_t) noexcept { give_back(memory); }
void operator delete(void* memory, std::size_t, std::align_val_t) noexcept { give_back(memory); }
void operator delete[](void* memory, std::size_t, std::align_val_t) noexcept { give_back(memory); }

namespace tersor::test {

constinit thread_local bool exempt = false;

namespace {

enum class Ending { done, no_memory, other };

Ending run(const Operation& operation, Outcome& outcome) {
    try {
        outcome = operation();
        return Ending::done;
    } catch (const std::bad_alloc&) {
        return Ending::no_memory;
    } catch (...) {
        return Ending::other;
    }
}

/// All allocations in turn, each alone or with all that follow; returns how many there were.
long fail_each(const MakeOperation& make, bool from_then) {
    Outcome expected;
    {
        const Operation operation = make();
        expected = operation();
    }
    for (long n = 0;; ++n) {
        Outcome outcome;
        const long before = live;
        Ending ending;
        {
            const Operation operation = make();
            fails_from_then = from_then;
            left = n;
            ending = run(operation, outcome);
            left = -1;
            if (ending == Ending::no_memory) outcome = operation();
        }
        const bool same = outcome == expected;
        outcome = {};
        EXPECT_EQ(live, before) << "left behind after allocation " << n << " failed";
        EXPECT_TRUE(same) << "another result once allocation " << n << " had failed";
        EXPECT_NE(ending, Ending::other) << "no bad_alloc, allocation " << n;
        if (ending != Ending::no_memory || ::testing::Test::HasFailure()) return n;
    }
}

/// Threads of its own: what they take themselves is not the library's.
void run_on_threads(std::size_t count, std::size_t grain, int, RangeFunction function,
                    void* context) {
    exempt = true;
    {
        std::vector<std::thread> threads;
        for (std::size_t begin = 0; begin < count; begin += grain) {
            threads.emplace_back(function, context, begin, std::min(begin + grain, count));
        }
        for (std::thread& thread : threads) thread.join();
    }
    exempt = false;
}

}  // namespace

void fail_all(const MakeOperation& make) {
    const long once = fail_each(make, false);
    EXPECT_GT(once, 0) << "nothing was allocated";
    fail_each(make, true);
}

void Allocation::SetUp() {
    IsaTest::SetUp();
    set_parallel_runner(run_on_threads);
}

void Allocation::TearDown() {
    set_parallel_runner(nullptr);
    IsaTest::TearDown();
}

PackedMatrix packed_matrix(const Problem& p, LayoutHint layout_hint) {
    PackedMatrix packed;
    EXPECT_TRUE(spmm::pack(p.csr, p.codebook, packed, layout_hint).ok());
    return packed;
}

std::vector<float> dense_of(const PackedMatrix& packed) {
    std::vector<float> dense(std::size_t{packed.rows()} * packed.cols());
    packed.unpack(dense);
    return dense;
}

}  // namespace tersor::test
