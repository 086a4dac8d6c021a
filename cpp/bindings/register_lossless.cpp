#include "bindings.hpp"
#include "tersor/lossless.hpp"

namespace tersor::bindings {

void register_lossless(py::module_& module) {
    module.def(
        "lossless_encode",
        [](const std::string& dtype, const std::vector<std::uint64_t>& shape,
           const Array<std::uint8_t>& bytes, Array<std::uint8_t>& out, int threads) {
            const auto source = view(bytes);
            const auto target = writable(out);
            const py::gil_scoped_release release;
            return lossless::encode(dtype, shape, source, target, threads);
        },
        py::arg("dtype"), py::arg("shape"), py::arg("bytes").noconvert(),
        py::arg("out").noconvert(), py::arg("threads"));
    module.def("lossless_bound", &lossless::encode_bound, py::arg("bytes"));
    module.def(
        "lossless_inspect",
        [](const Array<std::uint8_t>& blob) {
            lossless::BlobInfo info;
            throw_if_error(lossless::inspect(view(blob), info), "lossless blob");
            return py::make_tuple(info.dtype, py::tuple(py::cast(info.shape)), info.bytes,
                                  info.block_bytes, info.header_bytes);
        },
        py::arg("blob").noconvert());
    module.def(
        "lossless_decode",
        [](const Array<std::uint8_t>& blob, std::size_t first, Array<std::uint8_t>& out,
           int threads, bool verify) {
            const auto source = view(blob);
            const auto target = writable(out);
            Result result;
            {
                const py::gil_scoped_release release;
                result = lossless::decode_range(source, first, target,
                                                {.threads = threads, .verify = verify});
            }
            throw_if_error(result, "lossless blob");
        },
        py::arg("blob").noconvert(), py::arg("first"), py::arg("out").noconvert(),
        py::arg("threads"), py::arg("verify"));
    module.def(
        "is_lossless",
        [](const Array<std::uint8_t>& blob) { return lossless::is_blob(view(blob)); },
        py::arg("blob").noconvert());
}

}  // namespace tersor::bindings
