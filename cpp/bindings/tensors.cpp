#include "tensors.hpp"

#include <array>
#include <vector>

namespace py = pybind11;

namespace tersor::bindings {
namespace {

// What is needed of the structures of DLPack 1 (dmlc.github.io/dlpack).
struct DlTensor {
    void* data;
    std::int32_t device_type;
    std::int32_t device_id;
    std::int32_t dimensions;
    std::uint8_t type_code;
    std::uint8_t type_bits;
    std::uint16_t lanes;
    const std::int64_t* shape;
    const std::int64_t* strides;  // in elements
    std::uint64_t byte_offset;
};

constexpr std::uint32_t known_version = 1;
constexpr std::int32_t on_cpu = 1;
constexpr std::uint8_t is_float = 2;
constexpr std::uint8_t is_bfloat = 4;

std::optional<FloatType> type_of(const DlTensor& tensor) noexcept {
    if (tensor.lanes != 1) return std::nullopt;
    if (tensor.type_code == is_float && tensor.type_bits == 32) return FloatType::float32;
    if (tensor.type_code == is_bfloat && tensor.type_bits == 16) return FloatType::bfloat16;
    return std::nullopt;
}

/// The number of elements of a contiguous tensor.
std::optional<std::size_t> contiguous_size(const DlTensor& tensor) noexcept {
    std::int64_t size = 1;
    bool contiguous = true;
    for (std::int32_t d = tensor.dimensions - 1; d >= 0; --d) {
        contiguous &= tensor.shape[d] == 1 || tensor.strides[d] == size;
        size *= tensor.shape[d];
    }
    if (!contiguous && size != 0) return std::nullopt;
    return static_cast<std::size_t>(size);
}

/// A name that stays for as long as the interpreter.
PyObject* interned(const char* name) { return PyUnicode_InternFromString(name); }

}  // namespace

struct TensorReader::Table {
    std::uint32_t major;
    std::uint32_t minor;
    const void* older;
    void* allocate;
    void* from_object;
    void* to_object;
    int (*view_object)(void* object, DlTensor* view);  // may be nullptr
    void* stream;
};

FloatView TensorMemory::view() const noexcept {
    const void* from = data;
    if (type == FloatType::bfloat16) return std::span(static_cast<const BFloat16*>(from), size);
    return std::span(static_cast<const float*>(from), size);
}

FloatSpan TensorMemory::span() const noexcept {
    if (type == FloatType::bfloat16) return std::span(static_cast<BFloat16*>(data), size);
    return std::span(static_cast<float*>(data), size);
}

std::optional<TensorReader> TensorReader::of(py::handle tensor) {
    static PyObject* const name = interned("__dlpack_c_exchange_api__");
    PyTypeObject* type = Py_TYPE(tensor.ptr());
    const auto capsule = py::reinterpret_steal<py::object>(
        PyObject_GetAttr(reinterpret_cast<PyObject*>(type), name));
    const void* table =
        capsule ? PyCapsule_GetPointer(capsule.ptr(), "dlpack_exchange_api") : nullptr;
    if (table == nullptr) {
        PyErr_Clear();
        return std::nullopt;
    }
    const auto* known = static_cast<const Table*>(table);
    if (known->major != known_version || known->view_object == nullptr) return std::nullopt;
    return TensorReader(known, type);
}

std::optional<TensorMemory> TensorReader::read(py::handle tensor) const {
    static PyObject* const is_neg = interned("is_neg");
    if (PyObject_TypeCheck(tensor.ptr(), type_) == 0) return std::nullopt;
    DlTensor view{};
    if (table_->view_object(tensor.ptr(), &view) != 0) {
        PyErr_Clear();
        return std::nullopt;
    }
    const std::optional<FloatType> type = type_of(view);
    const std::optional<std::size_t> size = contiguous_size(view);
    if (view.device_type != on_cpu || !type.has_value() || !size.has_value()) return std::nullopt;
    const auto negated =
        py::reinterpret_steal<py::object>(PyObject_CallMethodNoArgs(tensor.ptr(), is_neg));
    if (negated.ptr() != Py_False) {
        PyErr_Clear();
        return std::nullopt;
    }
    return TensorMemory{static_cast<char*>(view.data) + view.byte_offset, *type,
                        std::span(view.shape, static_cast<std::size_t>(view.dimensions)), *size};
}

py::object TensorReader::make(py::handle x, std::span<const std::int64_t> shape,
                              TensorMemory& memory) const {
    static PyObject* const new_empty = interned("new_empty");
    std::vector<py::object> sizes;
    std::vector<PyObject*> arguments = {x.ptr()};
    sizes.reserve(shape.size());
    std::size_t size = 1;
    for (const std::int64_t n : shape) {
        sizes.emplace_back(py::int_(n));
        size *= static_cast<std::size_t>(n);
    }
    for (const py::object& each : sizes) arguments.push_back(each.ptr());
    auto view_of_memory = py::reinterpret_steal<py::object>(
        PyObject_VectorcallMethod(new_empty, arguments.data(), arguments.size(), nullptr));
    DlTensor view{};
    if (!view_of_memory || table_->view_object(view_of_memory.ptr(), &view) != 0)
        throw py::error_already_set();
    memory = {static_cast<char*>(view.data) + view.byte_offset, memory.type,
              std::span(view.shape, static_cast<std::size_t>(view.dimensions)), size};
    return view_of_memory;
}

py::object TensorReader::make_like(py::handle x, std::size_t last, TensorMemory& memory) const {
    std::vector<std::int64_t> shape(memory.shape.begin(), memory.shape.end());
    shape.back() = static_cast<std::int64_t>(last);
    return make(x, shape, memory);
}

}  // namespace tersor::bindings
