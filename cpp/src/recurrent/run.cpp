// A recurrent layer over sequences: the products with the inputs of many steps at once, then step
// by step the product with the state and the gates, while both are in the first cache.
#include <algorithm>
#include <stdexcept>
#include <string>

#include "recurrent/kernels.hpp"
#include "support/checked_size.hpp"
#include "support/scratch.hpp"
#include "tersor/recurrent.hpp"

namespace tersor::recurrent {
namespace {

/// Bytes of the input's products that are there at a time; a step has at least its own.
constexpr std::size_t products_at_once = std::size_t{2} << 20;

void check(bool good, const char* message) {
    if (!good) throw std::invalid_argument(std::string("recurrent: ") + message);
}

/// What the sizes of the weights say.
struct Sizes {
    std::size_t inputs;
    std::size_t hidden;
    std::size_t outputs;
    std::size_t gates;  // elements of all gates
};

Sizes sizes_of(Cell cell, const Weights& weights) {
    const Sizes sizes{weights.input.cols(), weights.input.rows() / gate_count(cell),
                      weights.hidden.cols(), weights.input.rows()};
    check(sizes.gates == sizes.hidden * gate_count(cell),
          "the rows of the input's weight are not those of the gates");
    check(weights.hidden.rows() == sizes.gates, "the state's weight has not the input's rows");
    check(weights.projection == nullptr || cell == Cell::lstm, "only LSTM projects its output");
    const std::size_t width =
        weights.projection != nullptr ? weights.projection->cols() : sizes.outputs;
    const std::size_t outputs =
        weights.projection != nullptr ? weights.projection->rows() : sizes.hidden;
    check(width == sizes.hidden && outputs == sizes.outputs,
          "the columns of the state's weight are not the elements of the state");
    for (const std::span<const float> bias : {weights.input_bias, weights.hidden_bias}) {
        check(bias.empty() || bias.size() == sizes.gates, "a bias has not one value for each row");
    }
    return sizes;
}

/// Rows of all steps together.
std::size_t rows_of(const Steps& steps) {
    std::int64_t before = steps.batch_sizes.empty() ? 0 : steps.batch_sizes.front();
    std::size_t rows = 0;
    for (const std::int64_t size : steps.batch_sizes) {
        check(size > 0 && size <= before, "the batch sizes grow, or one is not positive");
        const auto more = static_cast<std::size_t>(size);
        check(more <= SIZE_MAX - rows, "the batch sizes are more than memory can hold");
        rows += more;
        before = size;
    }
    return rows;
}

/// The states, and how a step changes them.
class Recurrence {
public:
    Recurrence(Cell cell, const Weights& weights, const Sizes& sizes, std::size_t batch,
               std::span<float> h, std::span<float> c, Precision precision, int threads)
        : cell_(cell),
          weights_(weights),
          sizes_(sizes),
          kernels_(kernels(weights.input.isa())),
          h_(h),
          c_(c),
          precision_(precision),
          threads_(threads),
          gates_(batch * sizes.gates),
          wide_(weights.projection != nullptr ? batch * sizes.hidden : 0) {}

    /// One step of the first `batch` sequences, from the products with their inputs.
    void step(const float* products, std::size_t batch) {
        const std::size_t hidden = sizes_.hidden;
        const std::span<const float> state = h_.first(batch * sizes_.outputs);
        const std::span<float> gates(gates_.data(), batch * sizes_.gates);
        // The reset gate comes between a GRU's two products.
        FloatView added;
        if (cell_ != Cell::gru) added = std::span<const float>(products, gates.size());
        const Activation activation = cell_ == Cell::rnn_relu ? Activation::relu : Activation::none;
        spmm::multiply(weights_.hidden, FloatView(state), batch,
                       Epilogue{weights_.hidden_bias, activation, added}, FloatSpan(gates),
                       precision_, threads_);
        if (cell_ == Cell::rnn_relu) std::ranges::copy(gates, h_.begin());
        if (cell_ == Cell::rnn_tanh) kernels_.tanh(gates.data(), gates.size(), h_.data());
        if (cell_ == Cell::lstm || cell_ == Cell::gru) {
            float* const to = weights_.projection != nullptr ? wide_.data() : h_.data();
            for (std::size_t n = 0; n < batch; ++n) {
                const float* const products_of_h = gates.data() + n * sizes_.gates;
                if (cell_ == Cell::lstm) {
                    kernels_.lstm(products_of_h, hidden, c_.data() + n * hidden, to + n * hidden);
                } else {
                    kernels_.gru(products + n * sizes_.gates, products_of_h, hidden,
                                 to + n * hidden);
                }
            }
        }
        if (weights_.projection != nullptr) {
            spmm::multiply(*weights_.projection, {wide_.data(), batch * hidden}, batch, {},
                           h_.first(batch * sizes_.outputs), precision_, threads_);
        }
    }

private:
    Cell cell_;
    const Weights& weights_;
    const Sizes& sizes_;
    const Kernels& kernels_;
    std::span<float> h_;
    std::span<float> c_;
    Precision precision_;
    int threads_;
    support::Scratch<float> gates_;
    support::Scratch<float> wide_;  // outputs before they are projected
};

}  // namespace

void run(Cell cell, const Weights& weights, const Steps& steps, std::span<const float> x,
         std::span<float> h, std::span<float> c, std::span<float> y, std::size_t y_stride,
         Precision precision, int threads) {
    const Sizes sizes = sizes_of(cell, weights);
    const std::size_t rows = rows_of(steps);
    const std::size_t batch =
        steps.batch_sizes.empty() ? 0 : static_cast<std::size_t>(steps.batch_sizes.front());
    check(support::checked_product(rows, sizes.inputs) == x.size(),
          "x has not the inputs of all steps");
    check(support::checked_product(batch, sizes.outputs) == h.size(),
          "h has not one state for each sequence");
    check(cell != Cell::lstm || support::checked_product(batch, sizes.hidden) == c.size(),
          "c has not one state for each sequence");
    check(y_stride >= sizes.outputs, "the rows of y overlap");
    if (rows == 0) return;
    const auto before_last = support::checked_product(rows - 1, y_stride);
    check(before_last.has_value() && y.size() >= sizes.outputs &&
              y.size() - sizes.outputs >= *before_last,
          "y has not the outputs of all steps");

    const std::size_t step_count = steps.batch_sizes.size();
    const auto size_of = [&](std::size_t t) {
        return static_cast<std::size_t>(steps.batch_sizes[steps.reversed ? step_count - 1 - t : t]);
    };
    const std::size_t most =
        std::max(products_at_once / sizeof(float) / std::max<std::size_t>(sizes.gates, 1), batch);
    const support::Scratch<float> products(std::min(most, rows) * sizes.gates);
    Recurrence recurrence(cell, weights, sizes, batch, h, c, precision, threads);
    std::size_t done = 0;  // rows, from the end on where that is the beginning
    for (std::size_t t = 0; t < step_count;) {
        // As many steps as their products have room.
        std::size_t last = t;
        std::size_t count = 0;
        while (last < step_count && count + size_of(last) <= most) count += size_of(last++);
        const std::size_t first = steps.reversed ? rows - done - count : done;
        spmm::multiply(weights.input, x.subspan(first * sizes.inputs, count * sizes.inputs), count,
                       weights.input_bias, {products.data(), count * sizes.gates}, precision,
                       threads);
        for (std::size_t inside = 0; t < last; ++t) {
            const std::size_t size = size_of(t);
            const std::size_t row = steps.reversed ? count - inside - size : inside;
            recurrence.step(products.data() + row * sizes.gates, size);
            for (std::size_t n = 0; n < size; ++n) {
                std::copy_n(h.data() + n * sizes.outputs, sizes.outputs,
                            y.data() + (first + row + n) * y_stride);
            }
            inside += size;
        }
        done += count;
    }
}

}  // namespace tersor::recurrent
