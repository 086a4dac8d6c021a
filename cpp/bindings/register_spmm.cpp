#include <algorithm>
#include <optional>

#include "arguments.hpp"
#include "bindings.hpp"
#include "csr_arrays.hpp"
#include "fast_arguments.hpp"
#include "fast_call.hpp"
#include "tensors.hpp"
#include "tersor/spmm.hpp"

namespace tersor::bindings {

namespace {

LayoutHint parse_layout_hint(const std::string& name) {
    if (name == "vector") return LayoutHint::vector;
    if (name == "batch") return LayoutHint::batch;
    throw std::invalid_argument("layout hint '" + name + "' is none of vector, batch");
}

/// `pack(csr, values, matrix)` on the parts of a RelativeCsr.
template <class Pack>
PackedMatrix packed(const Pack& pack, std::uint32_t rows, std::uint32_t cols, int index_bits,
                    bool flat, const Array<std::uint8_t>& codes, const Array<std::uint8_t>& gaps,
                    const Array<std::uint32_t>& row_lengths, const Array<float>& values) {
    const RelativeCsr csr = to_csr(rows, cols, index_bits, flat, codes, gaps, row_lengths);
    const auto weights = view(values);
    PackedMatrix matrix;
    Result result;
    {
        const py::gil_scoped_release release;
        result = pack(csr, weights, matrix);
    }
    throw_if_error(result, "pack", "entry");
    return matrix;
}

/// activation(x W^T + bias + residual) for tensors of torch; None where one of them cannot be read
/// as it is, or is of another shape.
py::object linear(const Arguments& arguments) {
    arguments.expect(7);
    const auto& matrix = arguments.instance<PackedMatrix>(0);
    const py::handle x = arguments[1], bias = arguments[2], residual = arguments[3];
    const std::optional<TensorReader> reader = TensorReader::of(x);
    if (!reader.has_value()) return py::none();
    const auto source = reader->read(x);
    if (!source.has_value() || source->shape.empty() ||
        source->shape.back() != std::int64_t{matrix.cols()} || matrix.cols() == 0) {
        return py::none();
    }
    const std::size_t batch = source->size / matrix.cols();
    Epilogue epilogue;
    epilogue.activation = activation_at(arguments, 4);
    if (!bias.is_none()) {
        const auto memory = reader->read(bias);
        if (!memory.has_value() || memory->size != matrix.rows()) return py::none();
        epilogue.bias = memory->view();
    }
    if (!residual.is_none()) {
        const auto memory = reader->read(residual);
        if (!memory.has_value() || memory->shape.size() != source->shape.size() ||
            memory->shape.back() != std::int64_t{matrix.rows()} ||
            !std::equal(memory->shape.begin(), memory->shape.end() - 1, source->shape.begin())) {
            return py::none();
        }
        epilogue.residual = memory->view();
    }
    TensorMemory target = *source;
    py::object y = reader->make_like(x, matrix.rows(), target);
    const Precision wanted = precision_at(arguments, 5);
    const int threads = arguments.integer(6);
    {
        const py::gil_scoped_release release;
        spmm::multiply(matrix, source->view(), batch, epilogue, target.span(), wanted, threads);
    }
    return y;
}

/// The same for raw addresses.
py::object multiply(const Arguments& arguments) {
    arguments.expect(10);
    const auto& matrix = arguments.instance<PackedMatrix>(0);
    const std::size_t batch = arguments.size(2);
    const std::size_t in = batch * matrix.cols();
    const std::size_t out = batch * matrix.rows();
    const int bfloat16 = arguments.integer(6);
    const FloatView x = view_at(arguments.size(1), in, (bfloat16 & x_is_bfloat16) != 0);
    const Epilogue epilogue{
        view_at(arguments.size(3), matrix.rows(), (bfloat16 & bias_is_bfloat16) != 0),
        activation_at(arguments, 7),
        view_at(arguments.size(4), out, (bfloat16 & residual_is_bfloat16) != 0)};
    const FloatSpan y = span_at(arguments.size(5), out, (bfloat16 & y_is_bfloat16) != 0);
    const Precision precision = precision_at(arguments, 8);
    const int threads = arguments.integer(9);
    {
        const py::gil_scoped_release release;
        spmm::multiply(matrix, x, batch, epilogue, y, precision, threads);
    }
    return py::none();
}

}  // namespace

void register_spmm(py::module_& module) {
    py::class_<PackedMatrix>(module, "PackedMatrix",
                             "A matrix laid out for the kernels of one instruction set.")
        .def_property_readonly("rows", &PackedMatrix::rows)
        .def_property_readonly("cols", &PackedMatrix::cols)
        .def_property_readonly("nonzeros", &PackedMatrix::nonzeros)
        .def_property_readonly("nbytes", &PackedMatrix::nbytes)
        .def_property_readonly("bits_per_nonzero",
                               [](const PackedMatrix& m) {
                                   return m.nonzeros() == 0
                                              ? 0.0
                                              : 8.0 * static_cast<double>(m.nbytes()) /
                                                    static_cast<double>(m.nonzeros());
                               })
        .def_property_readonly("isa",
                               [](const PackedMatrix& m) { return std::string(name(m.isa())); })
        .def_property_readonly("codebook_size", &PackedMatrix::codebook_size)
        .def("set_factors",
             [](PackedMatrix& m, const std::optional<Array<float>>& rows,
                const std::optional<Array<float>>& columns) {
                 m.set_factors(rows.has_value() ? view(*rows) : std::span<const float>(),
                               columns.has_value() ? view(*columns) : std::span<const float>());
             })
        .def_property_readonly("has_factors",
                               [](const PackedMatrix& m) {
                                   return !m.row_factors().empty() || !m.column_factors().empty();
                               })
        .def_property_readonly(
            "transposed",
            [](const PackedMatrix& m) -> const PackedMatrix& { return m.transposed(); },
            py::return_value_policy::reference_internal)
        .def("with_codebook",
             [](const PackedMatrix& m, const Array<float>& codebook) {
                 return m.with_codebook(view(codebook));
             })
        .def("unpack", [](const PackedMatrix& m) {
            Array<float> dense({m.rows(), m.cols()});
            m.unpack(writable(dense));
            return dense;
        });
    module.def(
        "spmm_prepare",
        [](const PackedMatrix& matrix, std::size_t batch, const std::string& precision,
           int threads) {
            const Precision wanted = parse_precision(precision);
            const py::gil_scoped_release release;
            spmm::prepare(matrix, batch, wanted, threads);
        },
        "Makes what products with `batch` vectors are computed from.", py::arg("packed"),
        py::arg("batch"), py::arg("precision"), py::arg("threads"));
    module.def(
        "spmm_pack",
        [](std::uint32_t rows, std::uint32_t cols, int index_bits, bool flat,
           const Array<std::uint8_t>& codes, const Array<std::uint8_t>& gaps,
           const Array<std::uint32_t>& row_lengths, const Array<float>& values,
           const std::optional<std::string>& layout_hint, std::size_t batch,
           const std::string& precision, int threads) {
            const auto wanted = layout_hint.has_value()
                                    ? std::optional(parse_layout_hint(*layout_hint))
                                    : std::nullopt;
            const spmm::Use use{batch, parse_precision(precision)};
            const auto pack = [=](const RelativeCsr& csr, std::span<const float> codebook,
                                  PackedMatrix& matrix) {
                const LayoutHint chosen =
                    wanted.has_value() ? *wanted : spmm::layout_hint_for(csr, codebook.size(), use);
                return spmm::pack(csr, codebook, matrix, chosen, threads);
            };
            return packed(pack, rows, cols, index_bits, flat, codes, gaps, row_lengths, values);
        },
        py::arg("rows"), py::arg("cols"), py::arg("index_bits"), py::arg("flat"),
        py::arg("codes").noconvert(), py::arg("gaps").noconvert(),
        py::arg("row_lengths").noconvert(), py::arg("values").noconvert(), py::arg("layout_hint"),
        py::arg("batch"), py::arg("precision"), py::arg("threads"));
    module.def(
        "spmm_pack_values",
        [](std::uint32_t rows, std::uint32_t cols, int index_bits, bool flat,
           const Array<std::uint8_t>& codes, const Array<std::uint8_t>& gaps,
           const Array<std::uint32_t>& row_lengths, const Array<float>& values) {
            return packed(spmm::pack_values, rows, cols, index_bits, flat, codes, gaps, row_lengths,
                          values);
        },
        py::arg("rows"), py::arg("cols"), py::arg("index_bits"), py::arg("flat"),
        py::arg("codes").noconvert(), py::arg("gaps").noconvert(),
        py::arg("row_lengths").noconvert(), py::arg("values").noconvert());
    def_fast<multiply>(
        module, "spmm_multiply",
        "spmm_multiply(packed: PackedMatrix, x: int, batch: int, bias: int, residual: int, y: int, "
        "bfloat16: int, activation: str, precision: str, threads: int) -> None\n\n"
        "Multiplies raw addresses of contiguous memory, 0 for what is left out: nothing is "
        "checked. `bfloat16` says which arrays hold that: 1 x, 2 bias, 4 residual, 8 y.");
    def_fast<linear>(
        module, "spmm_linear",
        "spmm_linear(packed: PackedMatrix, x: typing.Any, bias: typing.Any, residual: typing.Any, "
        "activation: str, precision: str, threads: int) -> typing.Any\n\n"
        "activation(x W^T + bias + residual) for torch's tensors, as one of x's type; None "
        "where one of them is of another shape or cannot be read as it is.");
    module.def("spmm_kernel_list", [] {
        std::vector<std::tuple<std::string, std::string, std::string>> list;
        for (const spmm::KernelInfo& kernel : spmm::kernel_list()) {
            list.emplace_back(kernel.name, name(kernel.isa),
                              kernel.layout_hint == LayoutHint::vector ? "vector" : "batch");
        }
        return list;
    });
    module.def(
        "spmm_multiply_by",
        [](const std::string& kernel, const PackedMatrix& matrix, const Array<float>& x,
           Array<float>& y, int threads) {
            if (x.ndim() != 2) throw std::invalid_argument("x must have two dimensions here");
            const auto source = view(x);
            const auto target = writable(y);
            const auto batch = static_cast<std::size_t>(x.shape(0));
            const py::gil_scoped_release release;
            spmm::multiply_by(kernel, matrix, source, batch, target, threads);
        },
        py::arg("kernel"), py::arg("packed"), py::arg("x").noconvert(), py::arg("y").noconvert(),
        py::arg("threads"));
    module.def(
        "spmm_sum_by_code",
        [](const PackedMatrix& matrix, const Array<float>& x, const Array<float>& gradient,
           std::size_t row_begin, int threads) {
            if (x.ndim() != 2 || gradient.ndim() != 2) {
                throw std::invalid_argument("x and the gradient must have two dimensions");
            }
            Array<float> sums(static_cast<py::ssize_t>(matrix.codebook_size()));
            const auto source = view(x);
            const auto from = view(gradient);
            const auto target = writable(sums);
            const auto batch = static_cast<std::size_t>(x.shape(0));
            const auto rows = static_cast<std::size_t>(gradient.shape(1));
            {
                const py::gil_scoped_release release;
                spmm::sum_by_code(matrix, source, from, batch, row_begin, rows, target, threads);
            }
            return sums;
        },
        py::arg("packed"), py::arg("x").noconvert(), py::arg("gradient").noconvert(),
        py::arg("row_begin"), py::arg("threads"));
}

}  // namespace tersor::bindings
