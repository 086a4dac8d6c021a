#include "bindings.hpp"
#include "precision.hpp"
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
        "conv_convolve_ptr",
        [](const PackedMatrix& filters, const Geometry& g, std::uintptr_t x, std::size_t batch,
           std::uintptr_t bias, std::uintptr_t y, const std::string& precision, int threads) {
            const Precision wanted = parse_precision(precision);
            const conv::Pair out = conv::output_size(g);
            const std::size_t in = batch * g.in_channels * g.input.h * g.input.w;
            // NOLINTBEGIN(performance-no-int-to-ptr)
            const py::gil_scoped_release release;
            conv::convolve(filters, g, {reinterpret_cast<const float*>(x), in}, batch,
                           {reinterpret_cast<const float*>(bias), bias == 0 ? 0 : filters.rows()},
                           {reinterpret_cast<float*>(y), batch * filters.rows() * out.h * out.w},
                           wanted, threads);
            // NOLINTEND(performance-no-int-to-ptr)
        },
        "Convolves raw addresses of contiguous float32 memory: nothing is checked.",
        py::arg("filters"), py::arg("geometry"), py::arg("x"), py::arg("batch"), py::arg("bias"),
        py::arg("y"), py::arg("precision"), py::arg("threads"));
}

}  // namespace tersor::bindings
