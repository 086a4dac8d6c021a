// Functions of Python that take their arguments as the interpreter holds them, by position: without
// the look-up of converters, which takes longer than the product of a small layer.
#pragma once

#include <pybind11/pybind11.h>

#include <cstddef>
#include <exception>
#include <initializer_list>
#include <new>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace tersor::bindings {

/// What a function was called with. Raises TypeError or OverflowError where an argument is of
/// another type than it is asked for as.
class Arguments {
public:
    Arguments(PyObject* const* objects, Py_ssize_t count) noexcept
        : objects_(objects), count_(count) {}

    /// Raises TypeError unless there are `count`.
    void expect(Py_ssize_t count) const {
        if (count_ == count) return;
        throw pybind11::type_error("expected " + std::to_string(count) + " arguments, got " +
                                   std::to_string(count_));
    }

    [[nodiscard]] pybind11::handle operator[](std::size_t i) const noexcept { return objects_[i]; }

    [[nodiscard]] std::size_t size(std::size_t i) const {
        const std::size_t value = PyLong_AsSize_t(objects_[i]);
        if (value == static_cast<std::size_t>(-1)) raise_if_set();
        return value;
    }
    [[nodiscard]] int integer(std::size_t i) const { return static_cast<int>(size(i)); }

    [[nodiscard]] std::string text(std::size_t i) const {
        Py_ssize_t length = 0;
        const char* const characters = PyUnicode_AsUTF8AndSize(objects_[i], &length);
        if (characters == nullptr) raise_if_set();
        return {characters, static_cast<std::size_t>(length)};
    }

    /// What an instance of a registered class holds.
    template <class T>
    [[nodiscard]] const T& instance(std::size_t i) const {
        static const pybind11::type type = pybind11::type::of<T>();
        if (reinterpret_cast<PyObject*>(Py_TYPE(objects_[i])) != type.ptr()) {
            throw pybind11::type_error("argument " + std::to_string(i) + " is no " +
                                       std::string(pybind11::str(type)));
        }
        auto* const object = reinterpret_cast<pybind11::detail::instance*>(objects_[i]);
        return *object->get_value_and_holder().value_ptr<T>();
    }

private:
    static void raise_if_set() {
        if (PyErr_Occurred() != nullptr) throw pybind11::error_already_set();
    }

    PyObject* const* objects_;
    Py_ssize_t count_;
};

/// Values by their names. Python has one object for all equal names in a program's text, which is
/// compared by its address; other objects are parsed.
template <class Value>
class ByName {
public:
    ByName(Value (*parse)(const std::string&), std::initializer_list<const char*> names)
        : parse_(parse) {
        for (const char* name : names) {
            known_.emplace_back(PyUnicode_InternFromString(name), parse(name));
        }
    }

    [[nodiscard]] Value of(const Arguments& arguments, std::size_t i) const {
        for (const auto& [name, value] : known_) {
            if (name == arguments[i].ptr()) return value;
        }
        return parse_(arguments.text(i));
    }

private:
    Value (*parse_)(const std::string&);
    std::vector<std::pair<PyObject*, Value>> known_;  // the names stay with the interpreter
};

/// `function(Arguments) -> pybind11::object` as METH_FASTCALL has it.
template <pybind11::object (*function)(const Arguments&)>
PyObject* fast_call(PyObject* /*module*/, PyObject* const* objects, Py_ssize_t count) noexcept {
    try {
        return function(Arguments(objects, count)).release().ptr();
    } catch (pybind11::error_already_set& error) {
        error.restore();
    } catch (const pybind11::builtin_exception& error) {
        error.set_error();
    } catch (const std::invalid_argument& error) {
        PyErr_SetString(PyExc_ValueError, error.what());
    } catch (const std::bad_alloc&) {
        PyErr_NoMemory();
    } catch (const std::exception& error) {
        PyErr_SetString(PyExc_RuntimeError, error.what());
    }
    return nullptr;
}

/// Adds it to a module. `description` begins with the signature; both have to stay.
template <pybind11::object (*function)(const Arguments&)>
void def_fast(pybind11::module_& module, const char* name, const char* description) {
    static PyMethodDef methods[2] = {};
    // CPython's own way to store functions of all signatures in one type.
    methods[0] = {name,
                  reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(fast_call<function>)),
                  METH_FASTCALL, description};
    if (PyModule_AddFunctions(module.ptr(), methods) != 0) throw pybind11::error_already_set();
}

}  // namespace tersor::bindings
