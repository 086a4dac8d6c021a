// Recurrent layers with compressed weights: LSTM, GRU and RNN over whole sequences.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "tersor/spmm.hpp"

namespace tersor::recurrent {

/// As in torch: the rows of the weights are the gates, one after the other. LSTM: input, forget,
/// cell, output; GRU: reset, update, new.
enum class Cell : std::uint8_t { rnn_tanh, rnn_relu, lstm, gru };

/// Gates of a cell.
[[nodiscard]] constexpr std::size_t gate_count(Cell cell) noexcept {
    return cell == Cell::lstm ? 4 : cell == Cell::gru ? 3 : 1;
}

/// One layer in one direction. With G gates of H hidden elements, and states of O elements, which
/// are H unless they are projected:
struct Weights {
    const PackedMatrix& input;                 // [G * H, inputs]
    const PackedMatrix& hidden;                // [G * H, O]
    const PackedMatrix* projection = nullptr;  // [O, H]: of an LSTM's output
    // NOLINTBEGIN(readability-redundant-member-init): so that aggregates may leave them out
    std::span<const float> input_bias = {};   // empty or [G * H]
    std::span<const float> hidden_bias = {};  // empty or [G * H]
    // NOLINTEND(readability-redundant-member-init)
};

/// Sequences of different lengths, longest first, step by step: step t has the next input of the
/// first batch_sizes[t] of them (torch's PackedSequence). Sizes do not grow, and are not 0.
struct Steps {
    std::span<const std::int64_t> batch_sizes;
    bool reversed = false;  // from the last input of each sequence to its first
};

/// Runs a layer over sequences. With N the sum of the batch sizes and B the first of them: x is
/// [N, inputs]; `h` [B, O] and, of an LSTM, `c` [B, H] hold the states before and are overwritten
/// with those after the last input of each sequence. Row i of y, which begins at y[i * y_stride],
/// becomes the state after input i; y_stride is at least O. Nothing overlaps.
///
/// The products with x are computed for many steps at once; those with h step by step. Each is
/// within its class's bound. Of the gates' functions, sigmoid is within 2^-22 and tanh within 2^-22
/// |tanh|; products with gates and sums are rounded to fp32. NaN stays NaN.
///
/// Throws std::invalid_argument where sizes do not fit each other.
void run(Cell cell, const Weights& weights, const Steps& steps, std::span<const float> x,
         std::span<float> h, std::span<float> c, std::span<float> y, std::size_t y_stride,
         Precision precision = Precision::high, int threads = 1);

}  // namespace tersor::recurrent
