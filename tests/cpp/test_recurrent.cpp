#include "tersor/recurrent.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "isa_test.hpp"
#include "recurrent/kernels.hpp"
#include "spmm_problem.hpp"

namespace tersor {
namespace {

using recurrent::Cell;
using test::Problem;

double sigmoid(double x) { return 1.0 / (1.0 + std::exp(-x)); }

/// A layer and what it is run on; all in plain loops of double precision, as torch documents it.
struct Network {
    Cell cell;
    Problem input;
    Problem hidden;
    Problem projection;
    bool projects;
    std::vector<float> input_bias;
    std::vector<float> hidden_bias;

    [[nodiscard]] std::size_t outputs() const { return hidden.cols; }
    [[nodiscard]] std::size_t width() const { return hidden.rows / recurrent::gate_count(cell); }

    [[nodiscard]] static std::vector<double> product(const Problem& w, const double* x,
                                                     const std::vector<float>& bias) {
        std::vector<double> y(w.rows);
        for (std::size_t r = 0; r < w.rows; ++r) {
            y[r] = bias.empty() ? 0.0 : double{bias[r]};
            for (std::size_t k = 0; k < w.cols; ++k) y[r] += double{w.dense[r * w.cols + k]} * x[k];
        }
        return y;
    }

    /// One step of one sequence.
    void step(const double* x, double* h, double* c) const {
        const std::size_t n = width();
        const auto in = product(input, x, input_bias);
        const auto own = product(hidden, h, hidden_bias);
        std::vector<double> out(n);
        for (std::size_t i = 0; i < n; ++i) {
            const auto gate = [&](std::size_t g) { return in[g * n + i] + own[g * n + i]; };
            switch (cell) {
                case Cell::rnn_tanh: out[i] = std::tanh(gate(0)); break;
                case Cell::rnn_relu: out[i] = std::max(gate(0), 0.0); break;
                case Cell::lstm:
                    c[i] = sigmoid(gate(1)) * c[i] + sigmoid(gate(0)) * std::tanh(gate(2));
                    out[i] = sigmoid(gate(3)) * std::tanh(c[i]);
                    break;
                case Cell::gru: {
                    const double fresh =
                        std::tanh(in[2 * n + i] + sigmoid(gate(0)) * own[2 * n + i]);
                    out[i] = (1.0 - sigmoid(gate(1))) * fresh + sigmoid(gate(1)) * h[i];
                }
            }
        }
        if (projects) out = product(projection, out.data(), {});
        std::ranges::copy(out, h);
    }
};

PackedMatrix packed(const Problem& p) {
    PackedMatrix matrix;
    EXPECT_TRUE(spmm::pack(p.csr, p.codebook, matrix).ok());
    return matrix;
}

Network make_network(Cell cell, bool projects, bool biased, std::uint32_t in, std::uint32_t width) {
    const auto gates = static_cast<std::uint32_t>(recurrent::gate_count(cell)) * width;
    const std::uint32_t out = projects ? 5 : width;
    Network made{cell,
                 test::make_problem(gates, in, 0.3, 7, 1),
                 test::make_problem(gates, out, 0.3, 7, 2),
                 test::make_problem(out, width, 0.5, 7, 3),
                 projects,
                 {},
                 {}};
    for (Problem* p : {&made.input, &made.hidden, &made.projection}) {
        for (float& v : p->codebook) v *= 0.25F;
        for (float& v : p->dense) v *= 0.25F;
    }
    if (biased) {
        made.input_bias = test::random_x(gates, 4);
        made.hidden_bias = test::random_x(gates, 5);
    }
    return made;
}

class Recurrent : public test::IsaTest {
protected:
    static void check(const Network& network, const std::vector<std::int64_t>& sizes,
                      bool reversed) {
        const std::size_t in = network.input.cols;
        const std::size_t out = network.outputs();
        const auto batch = static_cast<std::size_t>(sizes.front());
        const auto rows =
            static_cast<std::size_t>(std::accumulate(sizes.begin(), sizes.end(), std::int64_t{0}));
        const std::vector<float> x = test::random_x(rows * in, 6);
        const std::vector<float> h0 = test::random_x(batch * out, 7);
        const std::vector<float> c0 = test::random_x(batch * network.width(), 8);

        std::vector<double> expected(rows * out);
        std::vector<double> h(h0.begin(), h0.end());
        std::vector<double> c(c0.begin(), c0.end());
        std::vector<std::size_t> starts;
        for (std::size_t at = 0; const std::int64_t size : sizes) {
            starts.push_back(at);
            at += static_cast<std::size_t>(size);
        }
        for (std::size_t i = 0; i < sizes.size(); ++i) {
            const std::size_t t = reversed ? sizes.size() - 1 - i : i;
            for (std::size_t n = 0; n < static_cast<std::size_t>(sizes[t]); ++n) {
                const std::vector<double> inputs(
                    x.begin() + static_cast<std::ptrdiff_t>((starts[t] + n) * in),
                    x.begin() + static_cast<std::ptrdiff_t>((starts[t] + n + 1) * in));
                network.step(inputs.data(), &h[n * out], &c[n * network.width()]);
                std::copy_n(&h[n * out], out, &expected[(starts[t] + n) * out]);
            }
        }

        const PackedMatrix input = packed(network.input);
        const PackedMatrix hidden = packed(network.hidden);
        const PackedMatrix projection = packed(network.projection);
        const recurrent::Weights weights{input, hidden, network.projects ? &projection : nullptr,
                                         network.input_bias, network.hidden_bias};
        const std::size_t stride = out + 3;
        for (const int threads : {1, 2}) {
            std::vector<float> state = h0;
            std::vector<float> cells = c0;
            std::vector<float> y(rows * stride, 99.0F);
            recurrent::run(network.cell, weights, {sizes, reversed}, x, state, cells, y, stride,
                           Precision::highest, threads);
            for (std::size_t i = 0; i < rows; ++i) {
                for (std::size_t k = 0; k < stride; ++k) {
                    const double wanted = k < out ? expected[i * out + k] : 99.0;
                    ASSERT_NEAR(y[i * stride + k], wanted, 2e-5 * (1.0 + std::abs(wanted)))
                        << i << ' ' << k;
                }
            }
            for (std::size_t i = 0; i < state.size(); ++i) {
                ASSERT_NEAR(state[i], h[i], 2e-5 * (1.0 + std::abs(h[i])));
            }
            for (std::size_t i = 0; network.cell == Cell::lstm && i < cells.size(); ++i) {
                ASSERT_NEAR(cells[i], c[i], 2e-5 * (1.0 + std::abs(c[i])));
            }
        }
    }
};

TEST_P(Recurrent, EveryCellIsThatOfTheReference) {
    for (const Cell cell : {Cell::rnn_tanh, Cell::rnn_relu, Cell::lstm, Cell::gru}) {
        for (const bool biased : {false, true}) {
            const Network network = make_network(cell, false, biased, 33, 19);
            for (const bool reversed : {false, true}) {
                check(network, {3, 3, 3, 3}, reversed);
                check(network, {5, 5, 3, 1, 1}, reversed);
                check(network, {1}, reversed);
            }
        }
    }
    check(make_network(Cell::lstm, true, true, 33, 19), {4, 2, 2}, false);
    check(make_network(Cell::lstm, true, false, 33, 19), {4, 2, 2}, true);
}

TEST_P(Recurrent, MoreStepsThanTheirProductsHaveRoomFor) {
    // 3,000 steps of 200 numbers are 2.4 MB.
    check(make_network(Cell::rnn_tanh, false, true, 8, 200), std::vector<std::int64_t>(3000, 1),
          true);
}

TEST_P(Recurrent, TheFunctionsOfGatesAreWithinTheirErrors) {
    const recurrent::Kernels& kernels = recurrent::kernels(GetParam());
    std::vector<float> x;
    for (float v = 1e-30F; v < 100.0F; v *= 1.0037F) {
        x.push_back(v);
        x.push_back(-v);
    }
    for (const float v :
         {0.0F, -0.0F, 88.0F, -200.0F, 3e38F, -3e38F, std::numeric_limits<float>::infinity(),
          -std::numeric_limits<float>::infinity()}) {
        x.push_back(v);
    }
    std::vector<float> y(x.size());
    kernels.tanh(x.data(), x.size(), y.data());
    for (std::size_t i = 0; i < x.size(); ++i) {
        const double wanted = std::tanh(double{x[i]});
        ASSERT_LE(std::abs(y[i] - wanted), 0x1p-22 * std::abs(wanted)) << x[i];
    }
    // With an update gate at x, a new value of 0 and a state of 1, h is sigmoid(x).
    const std::size_t n = x.size();
    std::vector<float> from_x(3 * n);
    const std::vector<float> from_h(3 * n);
    std::copy(x.begin(), x.end(), from_x.begin() + static_cast<std::ptrdiff_t>(n));
    std::vector<float> h(n, 1.0F);
    kernels.gru(from_x.data(), from_h.data(), n, h.data());
    for (std::size_t i = 0; i < n; ++i) {
        ASSERT_LE(std::abs(h[i] - sigmoid(double{x[i]})), 0x1p-22) << x[i];
    }
}

TEST_P(Recurrent, NanStaysNan) {
    const recurrent::Kernels& kernels = recurrent::kernels(GetParam());
    const float nan = std::numeric_limits<float>::quiet_NaN();
    for (std::size_t gate = 0; gate < 4; ++gate) {
        std::vector<float> gates(4 * 21, 0.5F);
        gates[gate * 21 + 4] = nan;
        std::vector<float> c(21, 0.5F);
        std::vector<float> h(21);
        kernels.lstm(gates.data(), 21, c.data(), h.data());
        for (std::size_t i = 0; i < 21; ++i) EXPECT_EQ(std::isnan(h[i]), i == 4) << gate;
        if (gate == 3) continue;
        std::ranges::fill(h, 0.25F);
        kernels.gru(gates.data(), std::vector<float>(3 * 21).data(), 21, h.data());
        for (std::size_t i = 0; i < 21; ++i) EXPECT_EQ(std::isnan(h[i]), i == 4) << gate;
    }
    std::vector<float> one = {nan};
    kernels.tanh(one.data(), 1, one.data());
    EXPECT_TRUE(std::isnan(one[0]));
}

TEST_P(Recurrent, SizesThatDoNotFitAreRefused) {
    const Network network = make_network(Cell::lstm, false, true, 10, 6);
    const PackedMatrix input = packed(network.input);
    const PackedMatrix hidden = packed(network.hidden);
    const std::vector<float> x(30), bias(7);
    std::vector<float> h(6), c(6), y(18);
    const std::vector<std::int64_t> three = {1, 1, 1}, grows = {1, 2}, none = {1, 1, 0};
    const recurrent::Weights good{input, hidden};
    const auto runs = [&](Cell cell, const recurrent::Weights& weights,
                          const std::vector<std::int64_t>& sizes, std::size_t inputs,
                          std::size_t states, std::size_t outputs, std::size_t stride) {
        recurrent::run(cell, weights, {sizes}, std::span(x).first(inputs),
                       std::span(h).first(states), c, std::span(y).first(outputs), stride);
    };
    EXPECT_NO_THROW(runs(Cell::lstm, good, three, 30, 6, 18, 6));
    const auto refuses = [&](auto... arguments) {
        EXPECT_THROW(runs(arguments...), std::invalid_argument);
    };
    refuses(Cell::gru, good, three, 30, 6, 18, 6);
    refuses(Cell::rnn_tanh, good, three, 30, 6, 18, 6);
    refuses(Cell::lstm, good, three, 29, 6, 18, 6);
    refuses(Cell::lstm, good, three, 30, 5, 18, 6);
    refuses(Cell::lstm, good, three, 30, 6, 17, 6);
    refuses(Cell::lstm, good, three, 30, 6, 18, 5);
    refuses(Cell::lstm, good, grows, 30, 6, 18, 6);
    refuses(Cell::lstm, good, none, 20, 6, 18, 6);
    refuses(Cell::lstm, recurrent::Weights{input, hidden, nullptr, bias}, three, 30, 6, 18, 6);
    refuses(Cell::lstm, recurrent::Weights{input, hidden, &hidden}, three, 30, 6, 18, 6);
    refuses(Cell::lstm, recurrent::Weights{hidden, input}, three, 18, 6, 18, 6);
}

TERSOR_ON_EVERY_ISA(Recurrent);

}  // namespace
}  // namespace tersor
