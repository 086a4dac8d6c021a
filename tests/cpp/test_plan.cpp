// Which kernels serve a batch, and how it is split among threads.
#include <algorithm>
#include <array>
#include <atomic>
#include <limits>
#include <numeric>
#include <string>
#include <thread>

#include "isa_test.hpp"
#include "spmm/dispatch.hpp"
#include "spmm/panels/layout.hpp"
#include "spmm/split_work.hpp"
#include "spmm_problem.hpp"
#include "tersor/parallel.hpp"

namespace tersor {
namespace {

using spmm::Arithmetic;
using spmm::Plan;

constexpr Precision classes[] = {Precision::low, Precision::medium, Precision::high,
                                 Precision::highest};

PackedMatrix packed_of(const test::Problem& p) {
    PackedMatrix packed;
    EXPECT_TRUE(spmm::pack(p.csr, p.codebook, packed).ok());
    return packed;
}

class PlanTest : public test::IsaTest {};

// ---- The order of the classes

/// Cycles for a non-zero and a vector by one vector at a time: docs/kernels/sell.md, Zen 4. Of
/// other levels than AVX-512 their order alone is known.
double cycles_alone(std::optional<Arithmetic> arithmetic) {
    if (!arithmetic.has_value()) return 1.5;
    constexpr double by_limbs[] = {.062, .11, .19, .29};
    return by_limbs[std::clamp(arithmetic->x_limbs, 1, 4) - 1] +
           (arithmetic->w_limbs > arithmetic->x_limbs ? .02 : 0.0);
}

double cycles_in_panels(std::size_t vectors) {
    double cycles = 0.0;
    for (std::size_t rest = vectors; rest > 0;) {
        const std::size_t lanes = spmm::lanes_for(rest);
        cycles += static_cast<double>(lanes) * (lanes == 64 ? .107 : lanes == 32 ? .119 : .157);
        rest -= std::min(rest, lanes);
    }
    return cycles;
}

/// Cycles of a plan for each non-zero.
double cycles_of(const Plan& plan, std::size_t batch) {
    const std::size_t alone = batch - plan.in_tiles - plan.in_panels - plan.in_limb_panels;
    const std::size_t limb_lanes =
        (plan.in_limb_panels + spmm::limb_lanes - 1) / spmm::limb_lanes * spmm::limb_lanes;
    return cycles_in_panels(plan.in_panels) + .041 * static_cast<double>(limb_lanes) +
           static_cast<double>(alone) * cycles_alone(plan.arithmetic);
}

/// A matrix with one row that is full.
test::Problem with_a_full_row(std::uint32_t rows, std::uint32_t cols, double density) {
    test::Problem p = test::make_problem(rows, cols, density, 15, 31);
    std::vector<std::uint8_t> codes(p.dense.size());
    EXPECT_TRUE(csr::decode(p.csr, codes).ok());
    std::fill_n(codes.begin(), cols, std::uint8_t{3});
    std::fill_n(p.dense.begin(), cols, p.codebook[3]);
    p.csr = csr::encode(codes, rows, cols, 4);
    return p;
}

TEST_P(PlanTest, NoClassTakesLongerThanAMoreExactOne) {
    std::vector<std::pair<std::string, test::Problem>> problems;
    for (const double density : {0.04, 0.09, 0.25, 0.4, 0.48, 0.495, 0.505, 0.7, 1.0}) {
        problems.emplace_back(std::to_string(density),
                              test::make_problem(600, 4096, density, 15, 30));
    }
    problems.emplace_back("a full row", with_a_full_row(300, 4096, 0.09));
    problems.emplace_back("many columns", test::make_problem(40, 40'000, 0.5, 15, 32));
    problems.emplace_back("few columns", test::make_problem(500, 300, 0.3, 15, 33));
    problems.emplace_back("many values", test::make_problem(300, 1000, 0.3, 200, 34));
    for (const auto& [name, p] : problems) {
        const PackedMatrix packed = packed_of(p);
        for (const std::size_t batch : {1, 4, 8, 12, 24, 36, 40, 64, 70, 128, 256}) {
            double before = 0.0;
            for (const Precision precision : classes) {
                const Plan plan = spmm::plan_for(packed.layout(), batch, precision, 1);
                // Tiles, which take equally long whatever the density, are left to what was
                // measured; once a class takes them, so do the less exact ones.
                if (plan.in_tiles > 0) {
                    EXPECT_EQ(before, 0.0) << name;
                    continue;
                }
                const double cycles = cycles_of(plan, batch);
                EXPECT_LE(before, cycles * 1.001)
                    << name << ", batch " << batch << ", class " << static_cast<int>(precision);
                before = cycles;
            }
        }
    }
}

TEST_P(PlanTest, PanelsMeetTheirClassWhateverTheRowsAreLike) {
    for (const auto& p :
         {with_a_full_row(30, 4096, 0.09), test::make_problem(20, 40'000, 0.5, 15, 35),
          test::make_problem(40, 2048, 0.49, 15, 36)}) {
        const PackedMatrix packed = packed_of(p);
        const spmm::Panels* panels = packed.layout().panels();
        ASSERT_NE(panels, nullptr);
        EXPECT_TRUE(spmm::meets_high(spmm::chain_of(panels->largest_count)));
        const std::vector<float> x = test::random_x(std::size_t{64} * p.cols, 37);
        std::vector<float> y(std::size_t{64} * p.rows);
        spmm::multiply_by("panels", packed, x, 64, y);
        for (std::size_t n = 0; n < 64; ++n) {
            double largest = 0.0;
            for (std::size_t k = 0; k < p.cols; ++k) {
                largest = std::max(largest, std::abs(double{x[n * p.cols + k]}));
            }
            for (std::size_t r = 0; r < p.rows; ++r) {
                double sum = 0.0, weights = 0.0;
                for (std::size_t k = 0; k < p.cols; ++k) {
                    sum += double{p.dense[r * p.cols + k]} * x[n * p.cols + k];
                    weights += std::abs(double{p.dense[r * p.cols + k]});
                }
                ASSERT_NEAR(y[n * p.rows + r], sum, 0x1p-18 * largest * weights) << r;
            }
        }
    }
}

TEST(Panels, ManyFoldsAreAddedUpInDouble) {
    spmm::Panels panels;
    panels.block_width = spmm::least_block_width;
    panels.largest_count = spmm::least_block_width;
    EXPECT_FALSE(panels.wide_totals(4096));
    EXPECT_TRUE(panels.wide_totals(40'000));
}

// ---- Threads

/// Runs each piece on its own, and counts.
std::atomic<int> regions{0};
std::atomic<std::size_t> pieces{0};
void run_in_pieces(std::size_t count, std::size_t grain, int threads, RangeFunction function,
                   void* context) {
    ++regions;
    const std::size_t ranges = (count + grain - 1) / grain;
    const std::size_t used = std::min(ranges, static_cast<std::size_t>(threads));
    pieces = std::max(pieces.load(), used);
    std::vector<std::thread> running;
    for (std::size_t t = 0; t < used; ++t) {
        const std::size_t begin = ranges * t / used * grain;
        const std::size_t end = std::min(count, ranges * (t + 1) / used * grain);
        running.emplace_back(function, context, begin, end);
    }
    for (std::thread& thread : running) thread.join();
}

class PlanThreads : public test::IsaTest {
protected:
    void SetUp() override {
        test::IsaTest::SetUp();
        set_parallel_runner(run_in_pieces);
        regions = 0;
        pieces = 0;
    }
    void TearDown() override {
        set_parallel_runner(nullptr);
        test::IsaTest::TearDown();
    }
};

// Layers of few outputs too: rows and vectors are split, and what has to be done beforehand is done
// inside.
TEST_P(PlanThreads, ABatchIsSplitAsOftenAsThereAreThreads) {
    const test::Problem p = test::make_problem(1000, 512, 0.1, 15, 40);
    const PackedMatrix packed = packed_of(p);
    const std::vector<float> x = test::random_x(std::size_t{64} * p.cols, 41);
    std::vector<float> y(std::size_t{64} * p.rows);
    spmm::multiply_by("panels", packed, x, 64, y, 1);
    for (const int threads : {2, 3, 4, 8, 16}) {
        regions = 0;
        pieces = 0;
        spmm::multiply_by("panels", packed, x, 64, y, threads);
        EXPECT_EQ(regions, 1);
        EXPECT_EQ(pieces, static_cast<std::size_t>(threads));
    }
}

TEST_P(PlanThreads, EveryNumberOfThreadsGivesTheSameBits) {
    const test::Problem p = test::make_problem(1100, 300, 0.25, 15, 42);
    const test::Problem wide = test::make_problem(300, 20'000, 0.5, 15, 43);
    for (const test::Problem* problem : {&p, &wide}) {
        const PackedMatrix packed = packed_of(*problem);
        std::vector<float> x = test::random_x(std::size_t{150} * problem->cols, 44);
        x[7] = std::numeric_limits<float>::infinity();
        x[20 * std::size_t{problem->cols}] = std::numeric_limits<float>::quiet_NaN();
        const auto product = [&](std::size_t batch, Precision precision, int threads) {
            std::vector<float> y(batch * problem->rows);
            const std::vector<float> bias = test::random_x(problem->rows, 45);
            spmm::multiply(packed, std::span(x).first(batch * problem->cols), batch, bias, y,
                           precision, threads);
            for (float& v : y) v = std::isnan(v) ? -1e30F : v;
            return y;
        };
        for (const std::size_t batch : {1, 5, 17, 64, 150}) {
            if (problem == &wide && batch != 64) continue;
            for (const Precision precision : classes) {
                const std::vector<float> expected = product(batch, precision, 1);
                for (const int threads : {2, 3, 7, 16}) {
                    EXPECT_EQ(product(batch, precision, threads), expected)
                        << "batch " << batch << ", class " << static_cast<int>(precision) << ", "
                        << threads << " threads";
                }
            }
        }
    }
}

TEST(SplitWork, SharesCoverEverythingOnceAndAreAlike) {
    const spmm::RowTiles layers[] = {{1000, 256},  {1100, 256}, {4096, 512}, {8791, 512},
                                     {11008, 512}, {17, 256},   {2400, 512}};
    for (const spmm::RowTiles& tiles : layers) {
        for (const std::size_t batch : {1, 16, 64, 80, 150, 256}) {
            std::vector<spmm::VectorGroup> groups;
            for (std::size_t first = 0, work = 0; first < batch;) {
                const std::size_t lanes = spmm::lanes_for(batch - first);
                groups.push_back({first, std::min(lanes, batch - first), lanes, work});
                first += lanes;
                work += lanes * tiles.rows;
            }
            for (const std::size_t parts : {1, 2, 3, 4, 16}) {
                std::vector<int> seen(groups.size() * tiles.count());
                std::size_t most = 0;
                for (std::size_t piece = 0; piece < parts; ++piece) {
                    std::size_t rows = 0;
                    spmm::for_each_share(
                        groups, tiles, parts, piece, piece + 1,
                        [&](const spmm::VectorGroup& group, std::size_t begin, std::size_t end) {
                            const auto g = static_cast<std::size_t>(&group - groups.data());
                            for (std::size_t t = begin; t < end; ++t) {
                                ++seen[g * tiles.count() + t];
                                rows +=
                                    group.lanes * (std::min(tiles.rows, (t + 1) * tiles.tile_rows) -
                                                   t * tiles.tile_rows);
                            }
                        });
                    most = std::max(most, rows);
                }
                EXPECT_EQ(seen, std::vector<int>(seen.size(), 1));
                const std::size_t even = spmm::work_of(groups, tiles) / parts;
                EXPECT_LE(most, even + tiles.tile_rows * 64);
            }
        }
    }
}

// What the busiest thread does, counted in multiply-adds: its part of the entries, and what it
// makes of the activations for itself.
TEST(SplitWork, TwoThreadsHaveHalfOfTheWorkEach) {
    struct Layer {
        std::size_t cols, rows;
        double density;
    };
    constexpr Layer layers[] = {{9216, 4096, .09},  {4096, 4096, .09}, {4096, 1000, .25},
                                {25088, 4096, .04}, {4096, 4096, .04}, {4096, 1000, .23},
                                {4096, 11008, .3},  {4096, 11008, .5}, {600, 8791, .11},
                                {1201, 2400, .1},   {512, 512, .2}};
    for (const Layer& layer : layers) {
        const spmm::RowTiles tiles{layer.rows, spmm::tile_rows_for(layer.rows)};
        const double in_row = layer.density * static_cast<double>(layer.cols);
        const auto busiest = [&](std::size_t threads) {
            const auto nonzeros =
                static_cast<std::size_t>(in_row * static_cast<double>(layer.rows));
            const std::vector<spmm::VectorGroup> groups =
                spmm::vector_groups(nonzeros, layer.cols, tiles, 64, threads);
            double most = 0.0;
            for (std::size_t piece = 0; piece < threads; ++piece) {
                double work = 0.0;
                spmm::for_each_share(
                    groups, tiles, threads, piece, piece + 1,
                    [&](const spmm::VectorGroup& group, std::size_t begin, std::size_t end) {
                        const std::size_t rows =
                            std::min(layer.rows, end * tiles.tile_rows) - begin * tiles.tile_rows;
                        const double entries =
                            static_cast<double>(rows) * in_row *
                            static_cast<double>(spmm::cost_of_lane(group.lanes)) / 100;
                        const double made =
                            static_cast<double>(spmm::entries_per_column * layer.cols);
                        work += static_cast<double>(group.lanes) * (entries + made);
                    });
                most = std::max(most, work);
            }
            return most;
        };
        const double two = busiest(1) / busiest(2);
        EXPECT_GE(two, 1.8) << layer.cols << " -> " << layer.rows;
        std::cout << layer.cols << " -> " << layer.rows << ", " << 100 * layer.density
                  << " %: two threads " << two << ", four " << busiest(1) / busiest(4)
                  << ", sixteen " << busiest(1) / busiest(16) << " times as fast as one\n";
    }
}

TEST_P(PlanThreads, PreparedProductsMakeNothing) {
    const test::Problem p = test::make_problem(400, 300, 0.3, 15, 46);
    const std::vector<float> x = test::random_x(std::size_t{70} * p.cols, 47);
    for (const std::size_t batch : {1, 5, 20, 64, 70}) {
        for (const Precision precision : classes) {
            const PackedMatrix one = packed_of(p);
            const PackedMatrix prepared = packed_of(p);
            const std::size_t before = prepared.nbytes();
            spmm::prepare(prepared, batch, precision, 3);
            const std::size_t made = prepared.nbytes();
            EXPECT_GE(made, before);
            std::vector<float> expected(batch * p.rows), y(batch * p.rows);
            const auto some = std::span(x).first(batch * p.cols);
            spmm::multiply(one, some, batch, {}, expected, precision);
            spmm::multiply(prepared, some, batch, {}, y, precision, 3);
            EXPECT_EQ(y, expected) << batch;
            // `highest` may find so many rows to compute again that it gathers all.
            if (precision != Precision::highest) {
                EXPECT_EQ(prepared.nbytes(), made) << batch;
            }
            EXPECT_EQ(one.nbytes(), prepared.nbytes()) << batch;
        }
    }
}

TEST_P(PlanThreads, MoreVectorsNeedNoMoreMeetings) {
    const test::Problem p = test::make_problem(400, 300, 0.3, 15, 48);
    const PackedMatrix packed = packed_of(p);
    const std::vector<float> x = test::random_x(std::size_t{20} * p.cols, 49);
    static int meetings;
    set_parallel_runner([](std::size_t count, std::size_t, int, RangeFunction f, void* context) {
        ++meetings;
        f(context, 0, count);
    });
    for (const Precision precision : {Precision::low, Precision::medium}) {
        const auto meetings_of = [&](std::size_t batch) {
            std::vector<float> y(batch * p.rows);
            spmm::prepare(packed, batch, precision);
            meetings = 0;
            spmm::multiply(packed, std::span(x).first(batch * p.cols), batch, {}, y, precision, 2);
            return meetings;
        };
        EXPECT_LE(meetings_of(20), meetings_of(8)) << static_cast<int>(precision);
        EXPECT_GT(meetings, 0);
    }
    set_parallel_runner(nullptr);
}

TERSOR_ON_EVERY_ISA(PlanTest);
TERSOR_ON_EVERY_ISA(PlanThreads);

}  // namespace
}  // namespace tersor
