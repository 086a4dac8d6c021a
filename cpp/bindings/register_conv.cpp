#include "arguments.hpp"
#include "bindings.hpp"
#include "tersor/conv.hpp"

namespace tersor::bindings {
namespace {

using PairArgument = std::pair<std::uint32_t, std::uint32_t>;

conv::Pair to_pair(const PairArgument& pair) { return {pair.first, pair.second}; }

}  // namespace

void register_conv(py::module_& module) {
    using conv::Geometry;
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
