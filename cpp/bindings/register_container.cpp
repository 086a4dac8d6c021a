#include <cerrno>
#include <system_error>
#include <tuple>

#include "bindings.hpp"
#include "tersor/container.hpp"

namespace tersor::bindings {
namespace {

py::dict tensor_dict(const TensorView& tensor) {
    py::dict dict;
    dict["name"] = tensor.name;
    dict["dtype"] = tensor.dtype;
    dict["shape"] = py::tuple(py::cast(tensor.shape));
    dict["nbytes"] = tensor.bytes.size();
    dict["offset"] = tensor.offset;
    dict["compressed"] = tensor.compressed;
    dict["lossless"] = tensor.lossless;
    return dict;
}

}  // namespace

void register_container(py::module_& module) {
    py::class_<File>(module, "File", "An open file; the bytes of its tensors live as long as it.")
        .def_static(
            "open",
            [](const std::string& path, std::size_t max_bytes) {
                File file;
                throw_if_error(File::open(path, file, max_bytes), path);
                return file;
            },
            py::arg("path"), py::arg("max_bytes"))
        .def("tensors",
             [](const File& file) {
                 py::list list;
                 for (const TensorView& tensor : file.tensors()) list.append(tensor_dict(tensor));
                 return list;
             })
        .def(
            "bytes",
            [](const py::object& self, const std::string& tensor_name) {
                const TensorView* tensor = self.cast<const File&>().find(tensor_name);
                if (tensor == nullptr) throw py::key_error(tensor_name);
                // A view into the mapping: it keeps the file open, and must not be written to.
                Array<std::uint8_t> bytes(static_cast<py::ssize_t>(tensor->bytes.size()),
                                          tensor->bytes.data(), self);
                bytes.attr("flags").attr("writeable") = false;
                return bytes;
            },
            py::arg("name"))
        .def("metadata",
             [](const File& file) {
                 py::dict dict;
                 for (const auto& [key, value] : file.metadata()) dict[py::str(key)] = value;
                 return dict;
             })
        .def_property_readonly("file_bytes", &File::file_bytes)
        .def_property_readonly("is_tersor", &File::is_tersor)
        .def(
            "release",
            [](const File& file, const std::string& tensor_name) {
                const TensorView* tensor = file.find(tensor_name);
                if (tensor == nullptr) throw py::key_error(tensor_name);
                file.release(*tensor);
            },
            py::arg("name"))
        .def(
            "verify",
            [](const File& file, int threads) {
                const py::gil_scoped_release release;
                throw_if_error(file.verify(threads), "verify");
            },
            py::arg("threads") = 1);
    module.def(
        "write_file",
        [](const std::string& path,
           const std::vector<std::tuple<std::string, std::string, std::vector<std::uint64_t>,
                                        Array<std::uint8_t>>>& tensors,
           const std::vector<std::pair<std::string, std::string>>& metadata, bool plain) {
            std::vector<TensorToWrite> list;
            for (const auto& [name, dtype, shape, bytes] : tensors) {
                list.push_back({name, dtype, shape, view(bytes)});
            }
            const py::gil_scoped_release release;
            try {
                write_file(path, list, metadata, plain ? FileKind::plain : FileKind::indexed);
            } catch (const std::system_error& error) {
                const py::gil_scoped_acquire acquire;
                errno = error.code().value();
                PyErr_SetFromErrnoWithFilename(PyExc_OSError, path.c_str());
                throw py::error_already_set();
            }
        },
        py::arg("path"), py::arg("tensors"), py::arg("metadata"), py::arg("plain"));
}

}  // namespace tersor::bindings
