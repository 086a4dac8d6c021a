// Tensors of torch, read through the table of C functions that their type carries (DLPack's
// exchange API): without linking torch, and in a fraction of what attributes take.
#pragma once

#include <pybind11/pybind11.h>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

#include "tersor/epilogue.hpp"

namespace tersor::bindings {

/// The memory of a tensor, for as long as nothing else runs in the interpreter.
struct TensorMemory {
    void* data;
    FloatType type;
    std::span<const std::int64_t> shape;
    std::size_t size;  // in elements

    [[nodiscard]] FloatView view() const noexcept;
    [[nodiscard]] FloatSpan span() const noexcept;
};

/// What tensors of one type are read with.
class TensorReader {
public:
    /// None where the type has no table that is known here.
    [[nodiscard]] static std::optional<TensorReader> of(pybind11::handle tensor);

    /// None unless it is a tensor of this type, contiguous, float32 or bfloat16, on the CPU, and
    /// not a view with the opposite sign.
    [[nodiscard]] std::optional<TensorMemory> read(pybind11::handle tensor) const;

    /// A tensor of this shape that is not filled, otherwise like `x`; `memory`, that of x, becomes
    /// that of the new one.
    [[nodiscard]] pybind11::object make(pybind11::handle x, std::span<const std::int64_t> shape,
                                        TensorMemory& memory) const;

    /// A tensor that is not filled, like `x` but for its last dimension, which has `last` elements;
    /// `memory`, that of x, becomes that of the new one.
    [[nodiscard]] pybind11::object make_like(pybind11::handle x, std::size_t last,
                                             TensorMemory& memory) const;

private:
    struct Table;
    TensorReader(const Table* table, PyTypeObject* type) noexcept : table_(table), type_(type) {}

    const Table* table_;
    PyTypeObject* type_;
};

}  // namespace tersor::bindings
