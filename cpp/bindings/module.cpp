// The module tersor._core: each topic registers itself; errors become Python exceptions here.
#include "bindings.hpp"
#include "tersor/status.hpp"

namespace tersor::bindings {

PYBIND11_MODULE(_core, module) {
    module.doc() = "The compiled core of tersor; use the modules of the package instead.";
    // std::invalid_argument is a ValueError already; malformed data is one with a name of its own.
    py::register_exception<FormatError>(module, "FormatError", PyExc_ValueError);
    register_isa(module);
    register_csr(module);
    register_huffman(module);
    register_lossless(module);
    register_kmeans(module);
    register_spmm(module);
    register_conv(module);
    register_recurrent(module);
    register_rows(module);
    register_layer(module);
    register_container(module);
}

}  // namespace tersor::bindings
