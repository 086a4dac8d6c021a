// What the register_<topic>.cpp files share: array types, checks, spans over numpy memory.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstdint>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

namespace tersor::bindings {

namespace py = pybind11;

/// A C-contiguous numpy array of exactly this type; the Python layer converts, the module refuses.
template <class T>
using Array = py::array_t<T, py::array::c_style>;

/// Use as `py::arg("x").noconvert()` so that a wrong dtype is a TypeError, never a silent copy.
template <class T>
[[nodiscard]] std::span<const T> view(const Array<T>& array) {
    return {array.data(), static_cast<std::size_t>(array.size())};
}

/// The writable memory of an array that this module made.
template <class T>
[[nodiscard]] std::span<T> writable(Array<T>& array) {
    return {array.mutable_data(), static_cast<std::size_t>(array.size())};
}

/// A new numpy array with the elements of a vector.
template <class T>
[[nodiscard]] Array<T> to_numpy(const std::vector<T>& values) {
    return Array<T>(static_cast<py::ssize_t>(values.size()), values.data());
}

void register_isa(py::module_& module);
void register_csr(py::module_& module);
void register_huffman(py::module_& module);
void register_lossless(py::module_& module);
void register_kmeans(py::module_& module);
void register_spmm(py::module_& module);
void register_conv(py::module_& module);
void register_recurrent(py::module_& module);
void register_rows(py::module_& module);
void register_layer(py::module_& module);
void register_container(py::module_& module);

}  // namespace tersor::bindings
