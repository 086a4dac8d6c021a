// Without memory: packing, products, training and convolutions.
#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <functional>
#include <limits>
#include <memory>
#include <vector>

#include "failing_allocations.hpp"
#include "tersor/conv.hpp"
#include "tersor/kmeans.hpp"

namespace tersor {
namespace {

using test::Bytes;
using test::dense_of;
using test::fail_all;
using test::Operation;
using test::Outcome;
using test::packed_matrix;

using AllocationOfProducts = test::Allocation;

// So large that there are several groups of rows.
TEST_P(AllocationOfProducts, OfPacking) {
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

TEST_P(AllocationOfProducts, OfProducts) {
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

TEST_P(AllocationOfProducts, OfBfloat16) {
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

TEST_P(AllocationOfProducts, OfTraining) {
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

TEST_P(AllocationOfProducts, OfConvolutions) {
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
TERSOR_ON_EVERY_ISA(AllocationOfProducts);

}  // namespace
}  // namespace tersor
