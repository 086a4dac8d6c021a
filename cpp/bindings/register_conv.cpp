#include <algorithm>
#include <array>
#include <limits>
#include <optional>

#include "arguments.hpp"
#include "bindings.hpp"
#include "fast_arguments.hpp"
#include "fast_call.hpp"
#include "tensors.hpp"
#include "tersor/conv.hpp"

namespace tersor::bindings {
namespace {

using conv::Geometry;
using PairArgument = std::pair<std::uint32_t, std::uint32_t>;

conv::Pair to_pair(const PairArgument& pair) { return {pair.first, pair.second}; }

/// Whether a tensor has the shape.
bool has_shape(const TensorMemory& memory, std::span<const std::int64_t> shape) {
    return std::equal(memory.shape.begin(), memory.shape.end(), shape.begin(), shape.end());
}

/// activation(conv2d(x, W) + bias + residual) for tensors of torch; None where one of them cannot
/// be read as it is, or is of another shape. The geometry is without the size of the images.
py::object conv2d(const Arguments& arguments) {
    arguments.expect(8);
    const auto& filters = arguments.instance<PackedMatrix>(0);
    const py::handle x = arguments[1], bias = arguments[2], residual = arguments[3];
    Geometry g = arguments.instance<Geometry>(4);
    const std::optional<TensorReader> reader = TensorReader::of(x);
    if (!reader.has_value()) return py::none();
    const auto source = reader->read(x);
    constexpr std::int64_t largest = std::numeric_limits<std::uint32_t>::max();
    if (!source.has_value() || source->shape.size() != 4 ||
        source->shape[1] != std::int64_t{g.in_channels} ||
        std::max(source->shape[2], source->shape[3]) > largest) {
        return py::none();
    }
    g.input = {static_cast<std::uint32_t>(source->shape[2]),
               static_cast<std::uint32_t>(source->shape[3])};
    const conv::Pair output = conv::output_size(g);
    const std::array<std::int64_t, 4> shape = {source->shape[0], filters.rows(), output.h,
                                               output.w};
    Epilogue epilogue;
    epilogue.activation = activation_at(arguments, 5);
    if (!bias.is_none()) {
        const auto memory = reader->read(bias);
        if (!memory.has_value() || memory->size != filters.rows()) return py::none();
        epilogue.bias = memory->view();
    }
    if (!residual.is_none()) {
        const auto memory = reader->read(residual);
        if (!memory.has_value() || !has_shape(*memory, shape)) return py::none();
        epilogue.residual = memory->view();
    }
    const auto batch = static_cast<std::size_t>(source->shape[0]);
    const Precision wanted = precision_at(arguments, 6);
    const int threads = arguments.integer(7);
    TensorMemory target = *source;
    py::object y = reader->make(x, shape, target);
    {
        const py::gil_scoped_release release;
        conv::convolve(filters, g, source->view(), batch, epilogue, target.span(), wanted, threads);
    }
    return y;
}

}  // namespace

void register_conv(py::module_& module) {
    py::class_<Geometry>(module, "ConvGeometry", "The parameters of a convolution.")
        .def(py::init([](std::uint32_t in_channels, std::uint32_t groups, PairArgument input,
                         PairArgument kernel, PairArgument stride, PairArgument padding,
                         PairArgument dilation) {
                 return Geometry{in_channels,      groups,          to_pair(input),
                                 to_pair(kernel),  to_pair(stride), to_pair(padding),
                                 to_pair(dilation)};
             }),
             py::arg("in_channels"), py::arg("groups"), py::arg("input"), py::arg("kernel"),
             py::arg("stride"), py::arg("padding"), py::arg("dilation"))
        .def("output_size", [](const Geometry& g) {
            const conv::Pair size = conv::output_size(g);
            return py::make_tuple(size.h, size.w);
        });
    def_fast<conv2d>(module, "conv2d",
                     "conv2d(filters, x, bias, residual, geometry, activation, precision, "
                     "threads)\n\nConvolves tensors of torch with the filters; the geometry's "
                     "input size is that of x. None where they cannot be read as they are.");
    module.def(
        "conv_convolve",
        [](const PackedMatrix& filters, const Geometry& g, std::uintptr_t x, std::size_t batch,
           std::uintptr_t bias, std::uintptr_t residual, std::uintptr_t y, int bfloat16,
           const std::string& activation, const std::string& precision, int threads) {
            const Precision wanted = parse_precision(precision);
            const conv::Pair size = conv::output_size(g);
            const std::size_t in = batch * g.in_channels * g.input.h * g.input.w;
            const std::size_t out = batch * filters.rows() * size.h * size.w;
            const Epilogue epilogue{
                view_at(bias, filters.rows(), (bfloat16 & bias_is_bfloat16) != 0),
                parse_activation(activation),
                view_at(residual, out, (bfloat16 & residual_is_bfloat16) != 0)};
            const FloatView source = view_at(x, in, (bfloat16 & x_is_bfloat16) != 0);
            const FloatSpan target = span_at(y, out, (bfloat16 & y_is_bfloat16) != 0);
            const py::gil_scoped_release release;
            conv::convolve(filters, g, source, batch, epilogue, target, wanted, threads);
        },
        "Convolves raw addresses, as spmm_multiply multiplies them.", py::arg("filters"),
        py::arg("geometry"), py::arg("x"), py::arg("batch"), py::arg("bias"), py::arg("residual"),
        py::arg("y"), py::arg("bfloat16"), py::arg("activation"), py::arg("precision"),
        py::arg("threads"));
}

}  // namespace tersor::bindings
