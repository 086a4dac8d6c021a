#include <optional>

#include "arguments.hpp"
#include "bindings.hpp"
#include "tersor/recurrent.hpp"

namespace tersor::bindings {
namespace {

recurrent::Cell parse_cell(const std::string& name) {
    using recurrent::Cell;
    if (name == "rnn_tanh") return Cell::rnn_tanh;
    if (name == "rnn_relu") return Cell::rnn_relu;
    if (name == "lstm") return Cell::lstm;
    if (name == "gru") return Cell::gru;
    throw std::invalid_argument("cell '" + name + "' is none of rnn_tanh, rnn_relu, lstm, gru");
}

std::span<const float> optional_view(const std::optional<Array<float>>& array) {
    return array.has_value() ? view(*array) : std::span<const float>();
}

}  // namespace

void register_recurrent(py::module_& module) {
    module.def(
        "recurrent_run",
        [](const std::string& cell, const PackedMatrix& input, const PackedMatrix& hidden,
           const PackedMatrix* projection, const std::optional<Array<float>>& input_bias,
           const std::optional<Array<float>>& hidden_bias, const std::vector<std::int64_t>& sizes,
           bool reversed, const Array<float>& x, Array<float>& h, std::optional<Array<float>>& c,
           Array<float>& y, std::size_t column, const std::string& precision, int threads) {
            const recurrent::Cell wanted = parse_cell(cell);
            const Precision bound = parse_precision(precision);
            const recurrent::Weights weights{input, hidden, projection, optional_view(input_bias),
                                             optional_view(hidden_bias)};
            if (y.ndim() != 2) throw std::invalid_argument("y must have two dimensions");
            const auto stride = static_cast<std::size_t>(y.shape(1));
            const auto source = view(x);
            const auto state = writable(h);
            const auto cells = c.has_value() ? writable(*c) : std::span<float>();
            const auto target = writable(y);
            if (column > stride || column + hidden.cols() > stride) {
                throw std::invalid_argument("y has not the columns of the outputs");
            }
            const py::gil_scoped_release release;
            recurrent::run(wanted, weights, {sizes, reversed}, source, state, cells,
                           target.subspan(std::min(column, target.size())), stride, bound, threads);
        },
        "Runs a recurrent layer over sequences: h, c and the columns of y from `column` on are "
        "overwritten.",
        py::arg("cell"), py::arg("input"), py::arg("hidden"), py::arg("projection"),
        py::arg("input_bias"), py::arg("hidden_bias"), py::arg("batch_sizes"), py::arg("reversed"),
        py::arg("x").noconvert(), py::arg("h").noconvert(), py::arg("c"), py::arg("y").noconvert(),
        py::arg("column"), py::arg("precision"), py::arg("threads"));
}

}  // namespace tersor::bindings
