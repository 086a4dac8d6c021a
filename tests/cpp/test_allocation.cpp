// Without memory: each operation is run with its n-th allocation failing, for every n. It ends with
// an error that says so, leaves nothing behind, and works when it is tried again.
#include <gtest/gtest.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <limits>
#include <memory>
#include <new>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "isa_test.hpp"
#include "spmm_problem.hpp"
#include "tersor/c_api.h"
#include "tersor/container.hpp"
#include "tersor/conv.hpp"
#include "tersor/huffman.hpp"
#include "tersor/kmeans.hpp"
#include "tersor/pack_layer.hpp"
#include "tersor/parallel.hpp"

namespace {

std::atomic<long> live{0};                 // blocks
std::atomic<long> left{-1};                // allocations that still succeed; -1: all
std::atomic<bool> fails_from_then{false};  // or the one alone
thread_local bool exempt = false;

bool fails_now() noexcept {
    if (exempt || left.load() < 0) return false;
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

namespace tersor {
namespace {

using Bytes = std::vector<std::uint8_t>;

/// What an operation came to, to be compared.
struct Outcome {
    std::vector<float> values;
    Bytes bytes;
    friend bool operator==(const Outcome&, const Outcome&) = default;
};

using Operation = std::function<Outcome()>;
/// Operations on things that are made for them: what a failure left of these is what they are
/// tried again on.
using MakeOperation = std::function<Operation()>;

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

void fail_all(const MakeOperation& make) {
    const long once = fail_each(make, false);
    EXPECT_GT(once, 0) << "nothing was allocated";
    fail_each(make, true);
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

class Allocation : public test::IsaTest {
protected:
    void SetUp() override {
        test::IsaTest::SetUp();
        set_parallel_runner(run_on_threads);
    }
    void TearDown() override {
        set_parallel_runner(nullptr);
        test::IsaTest::TearDown();
    }
};

Bytes some_symbols(std::size_t size) {
    Bytes symbols(size);
    std::mt19937 generator(3);
    for (auto& symbol : symbols)
        symbol = static_cast<std::uint8_t>(generator() % 5 * (generator() % 3));
    return symbols;
}

Layer some_layer(const test::Problem& p, bool shared) {
    Layer layer{{p.rows, p.cols}, ValueKind::shared_fp32, p.csr, {}};
    layer.values.assign(p.codebook.begin() + 1, p.codebook.end());
    if (shared) return layer;
    layer.kind = ValueKind::plain_fp32;
    layer.values.clear();
    for (std::uint8_t& code : layer.csr.codes) {
        if (code == 0) continue;
        layer.values.push_back(p.codebook[code]);
        code = 1;
    }
    return layer;
}

PackedMatrix packed_matrix(const test::Problem& p, LayoutHint layout_hint = LayoutHint::vector) {
    PackedMatrix packed;
    EXPECT_TRUE(spmm::pack(p.csr, p.codebook, packed, layout_hint).ok());
    return packed;
}

std::vector<float> dense_of(const PackedMatrix& packed) {
    std::vector<float> dense(std::size_t{packed.rows()} * packed.cols());
    packed.unpack(dense);
    return dense;
}

TEST_P(Allocation, OfStreams) {
    for (const std::size_t size : {std::size_t{300}, std::size_t{300'000}}) {
        const Bytes symbols = some_symbols(size);
        fail_all([&] { return [&] { return Outcome{{}, huffman::encode(symbols, 2)}; }; });
        const Bytes stream = huffman::encode(symbols);
        fail_all([&] {
            return [&] {
                Bytes decoded(symbols.size());
                const Result result = huffman::decode(stream, decoded, {.threads = 2});
                return Outcome{{static_cast<float>(result.status)}, decoded};
            };
        });
        fail_all([&] {
            return [&] {
                Bytes decoded(symbols.size() / 2);
                const Result result = huffman::decode_range(stream, 100, decoded, {.threads = 2});
                return Outcome{{static_cast<float>(result.status)}, decoded};
            };
        });
    }
}

TEST_P(Allocation, OfLayers) {
    const test::Problem p = test::make_problem(60, 200, 0.2, 15, 4);
    for (const bool shared : {true, false}) {
        const Layer layer = some_layer(p, shared);
        fail_all([&] { return [&] { return Outcome{{}, encode_layer(layer)}; }; });
        const Bytes blob = encode_layer(layer);
        fail_all([&] {
            return [&] {
                Layer decoded;
                const Result result = decode_layer(blob, decoded);
                return Outcome{{static_cast<float>(result.status)}, decoded.csr.codes};
            };
        });
        fail_all([&] {
            return [&] {
                Layer decoded;
                const Result result = decode_rows(blob, 3, 20, decoded);
                return Outcome{{static_cast<float>(result.status)}, decoded.csr.codes};
            };
        });
        fail_all([&] {
            return [&] {
                PackedMatrix packed;
                const Result result = pack_layer(blob, packed, SIZE_MAX, 2);
                if (!result.ok()) return Outcome{{static_cast<float>(result.status)}, {}};
                return Outcome{dense_of(packed), {}};
            };
        });
    }
}

// So large that there are several groups of rows.
TEST_P(Allocation, OfPacking) {
    const test::Problem p = test::make_problem(700, 600, 0.9, 15, 5);
    for (const LayoutHint layout_hint : {LayoutHint::vector, LayoutHint::batch}) {
        fail_all([&] {
            return [&] {
                PackedMatrix packed;
                const Result result = spmm::pack(p.csr, p.codebook, packed, layout_hint, 3);
                return Outcome{
                    {static_cast<float>(result.status), static_cast<float>(packed.nonzeros())}, {}};
            };
        });
    }
}

TEST_P(Allocation, OfProducts) {
    const test::Problem p = test::make_problem(70, 300, 0.2, 15, 6);
    std::vector<float> x = test::random_x(std::size_t{70} * p.cols, 7);
    x[5 * std::size_t{p.cols}] = std::numeric_limits<float>::infinity();
    for (const LayoutHint layout_hint : {LayoutHint::vector, LayoutHint::batch}) {
        for (const std::size_t batch : {1, 7, 70}) {
            for (const Precision precision :
                 {Precision::highest, Precision::high, Precision::medium, Precision::low}) {
                fail_all([&]() -> Operation {
                    const auto packed =
                        std::make_shared<PackedMatrix>(packed_matrix(p, layout_hint));
                    return [&, packed] {
                        std::vector<float> y(batch * p.rows);
                        spmm::multiply(*packed, std::span(x).first(batch * p.cols), batch, {}, y,
                                       precision, 3);
                        // NaN does not equal itself.
                        for (float& v : y) v = std::isnan(v) ? -1e30F : v;
                        return Outcome{y, {}};
                    };
                });
            }
        }
    }
}

TEST_P(Allocation, OfProductsInBfloat16) {
    const test::Problem p = test::make_problem(40, 100, 0.2, 15, 6);
    const std::vector<BFloat16> x(70 * std::size_t{p.cols}, BFloat16{0x3f80});
    const std::vector<BFloat16> bias(p.rows, BFloat16{0x4000});
    fail_all([&]() -> Operation {
        const auto packed = std::make_shared<PackedMatrix>(packed_matrix(p));
        return [&, packed] {
            std::vector<BFloat16> y(70 * std::size_t{p.rows});
            spmm::multiply(*packed, std::span<const BFloat16>(x), 70,
                           {std::span<const BFloat16>(bias), Activation::gelu, {}}, std::span(y),
                           Precision::high, 2);
            Outcome outcome;
            for (const BFloat16 v : y) outcome.values.push_back(static_cast<float>(v.bits));
            return outcome;
        };
    });
}

TEST_P(Allocation, OfTraining) {
    const test::Problem p = test::make_problem(70, 130, 0.2, 15, 8);
    const std::vector<float> x = test::random_x(std::size_t{3} * p.cols, 9);
    const std::vector<float> gradient = test::random_x(std::size_t{3} * p.rows, 10);
    const auto with_matrix = [&](const std::function<Outcome(const PackedMatrix&)>& use) {
        fail_all([&]() -> Operation {
            const auto packed = std::make_shared<PackedMatrix>(packed_matrix(p));
            return [&, packed] { return use(*packed); };
        });
    };
    with_matrix(
        [](const PackedMatrix& packed) { return Outcome{dense_of(packed.transposed()), {}}; });
    with_matrix([&](const PackedMatrix& packed) {
        std::vector<float> codebook = p.codebook;
        for (float& value : codebook) value *= 2.0F;
        return Outcome{dense_of(packed.with_codebook(codebook)), {}};
    });
    with_matrix([&](const PackedMatrix& packed) {
        std::vector<float> sums(p.codebook.size());
        spmm::sum_by_code(packed, x, gradient, 3, 0, p.rows, sums, 2);
        return Outcome{sums, {}};
    });
    fail_all([&] {
        return [&] {
            Bytes codes(x.size());
            const auto found = kmeans::cluster(x, 7, {}, codes, {.threads = 2});
            return Outcome{found.values, codes};
        };
    });
}

TEST_P(Allocation, OfConvolutions) {
    const test::Problem p = test::make_problem(6, 4 * 9, 0.4, 15, 11);
    const conv::Geometry geometry{.in_channels = 4, .input = {8, 7}, .kernel = {3, 3}};
    const conv::Pair size = conv::output_size(geometry);
    const std::vector<float> x = test::random_x(std::size_t{2} * 4 * 8 * 7, 12);
    fail_all([&]() -> Operation {
        const auto packed = std::make_shared<PackedMatrix>(packed_matrix(p));
        return [&, packed] {
            std::vector<float> y(std::size_t{2} * p.rows * size.h * size.w);
            conv::convolve(*packed, geometry, x, 2, {}, y, Precision::high, 2);
            return Outcome{y, {}};
        };
    });
}

/// A file of this library, in a folder of its own.
class AllocationOfFiles : public Allocation {
protected:
    AllocationOfFiles()
        : folder_(std::filesystem::path(::testing::TempDir()) /
                  ("tersor_allocation_" + std::to_string(getpid()))),
          path_((folder_ / "m.safetensors").string()) {
        std::filesystem::remove_all(folder_);
        std::filesystem::create_directory(folder_);
        blob_ = encode_layer(some_layer(test::make_problem(60, 200, 0.2, 15, 4), true));
        save();
    }
    ~AllocationOfFiles() override { std::filesystem::remove_all(folder_); }

    void save() const {
        const std::vector<TensorToWrite> tensors = {{"fc.weight_blob", "U8", {blob_.size()}, blob_},
                                                    {"fc.bias", "U8", {bias_.size()}, bias_}};
        write_file(path_, tensors, {{"made by", "a test of what happens without memory"}});
    }
    [[nodiscard]] long files() const {
        const std::filesystem::directory_iterator folder(folder_);
        return std::distance(begin(folder), end(folder));
    }

    std::filesystem::path folder_;
    std::string path_;
    Bytes blob_;
    Bytes bias_ = Bytes(3000, 7);
};

TEST_P(AllocationOfFiles, Saving) {
    fail_all([&] {
        return [&] {
            try {
                save();
            } catch (...) {
                const bool was_exempt = std::exchange(exempt, true);
                EXPECT_EQ(files(), 1);
                exempt = was_exempt;
                throw;
            }
            return Outcome{};
        };
    });
    File file;
    EXPECT_TRUE(File::open(path_, file).ok());
    EXPECT_TRUE(file.verify().ok());
}

TEST_P(AllocationOfFiles, Loading) {
    fail_all([&] {
        return [&] {
            File file;
            const Result result = File::open(path_, file);
            if (!result.ok()) return Outcome{{static_cast<float>(result.status)}, {}};
            const Bytes tensors(file.tensors().size(), 1);
            return Outcome{{static_cast<float>(file.verify().status)}, tensors};
        };
    });
}

TEST_P(AllocationOfFiles, ThroughTheCInterface) {
    const auto checked = [](int status) {
        if (status == TERSOR_NO_MEMORY) throw std::bad_alloc();
        if (status != TERSOR_OK) throw std::runtime_error("another status");
    };
    const std::vector<float> x = test::random_x(std::size_t{40} * 200, 13);
    struct Handles {
        tersor_file* file = nullptr;
        tersor_matrix* matrix = nullptr;
        ~Handles() {
            tersor_free_matrix(matrix);
            tersor_close(file);
        }
    };
    fail_all([&] {
        return [&] {
            Handles made;
            checked(tersor_open(path_.c_str(), &made.file));
            checked(tersor_load_layer(made.file, "fc.weight_blob", 0, 2, &made.matrix));
            std::vector<float> y(std::size_t{40} * 60);
            checked(tersor_multiply(made.matrix, x.data(), 40, nullptr, y.data(), TERSOR_HIGH, 2));
            return Outcome{y, {}};
        };
    });
}

TERSOR_ON_EVERY_ISA(Allocation);
TERSOR_ON_EVERY_ISA(AllocationOfFiles);

}  // namespace
}  // namespace tersor
