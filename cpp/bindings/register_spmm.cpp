#include "bindings.hpp"
#include "csr_arrays.hpp"
#include "precision.hpp"
#include "tersor/spmm.hpp"

namespace tersor::bindings {

Precision parse_precision(const std::string& name) {
    if (name == "highest") return Precision::highest;
    if (name == "high") return Precision::high;
    if (name == "medium") return Precision::medium;
    if (name == "low") return Precision::low;
    throw std::invalid_argument("precision '" + name + "' is none of highest, high, medium, low");
}

namespace {

Regime parse_regime(const std::string& name) {
    if (name == "vector") return Regime::vector;
    if (name == "batch") return Regime::batch;
    throw std::invalid_argument("regime '" + name + "' is none of vector, batch");
}

/// `pack(csr, values, matrix)` on the parts of a RelativeCsr.
template <class Pack>
PackedMatrix packed(const Pack& pack, std::uint32_t rows, std::uint32_t cols, int index_bits,
                    bool flat, const Array<std::uint8_t>& codes, const Array<std::uint8_t>& gaps,
                    const Array<std::uint32_t>& row_lengths, const Array<float>& values) {
    const RelativeCsr csr = to_csr(rows, cols, index_bits, flat, codes, gaps, row_lengths);
    const auto weights = view(values);
    PackedMatrix matrix;
    Result result;
    {
        const py::gil_scoped_release release;
        result = pack(csr, weights, matrix);
    }
    throw_if_error(result, "pack", "entry");
    return matrix;
}

template <class T>
T* pointer(std::uintptr_t address) {
    return reinterpret_cast<T*>(address);  // NOLINT(performance-no-int-to-ptr)
}

}  // namespace

void register_spmm(py::module_& module) {
    py::class_<PackedMatrix>(module, "PackedMatrix",
                             "A matrix laid out for the kernels of one instruction set.")
        .def_property_readonly("rows", &PackedMatrix::rows)
        .def_property_readonly("cols", &PackedMatrix::cols)
        .def_property_readonly("nonzeros", &PackedMatrix::nonzeros)
        .def_property_readonly("nbytes", &PackedMatrix::nbytes)
        .def_property_readonly("bits_per_nonzero",
                               [](const PackedMatrix& m) {
                                   return m.nonzeros() == 0
                                              ? 0.0
                                              : 8.0 * static_cast<double>(m.nbytes()) /
                                                    static_cast<double>(m.nonzeros());
                               })
        .def_property_readonly("isa",
                               [](const PackedMatrix& m) { return std::string(name(m.isa())); })
        .def("unpack", [](const PackedMatrix& m) {
            Array<float> dense({m.rows(), m.cols()});
            m.unpack(writable(dense));
            return dense;
        });
    module.def(
        "spmm_pack",
        [](std::uint32_t rows, std::uint32_t cols, int index_bits, bool flat,
           const Array<std::uint8_t>& codes, const Array<std::uint8_t>& gaps,
           const Array<std::uint32_t>& row_lengths, const Array<float>& values,
           const std::string& regime, int threads) {
            const Regime wanted = parse_regime(regime);
            const auto pack = [wanted, threads](const RelativeCsr& csr,
                                                std::span<const float> codebook,
                                                PackedMatrix& matrix) {
                return spmm::pack(csr, codebook, matrix, wanted, threads);
            };
            return packed(pack, rows, cols, index_bits, flat, codes, gaps, row_lengths, values);
        },
        py::arg("rows"), py::arg("cols"), py::arg("index_bits"), py::arg("flat"),
        py::arg("codes").noconvert(), py::arg("gaps").noconvert(),
        py::arg("row_lengths").noconvert(), py::arg("values").noconvert(), py::arg("regime"),
        py::arg("threads"));
    module.def(
        "spmm_pack_values",
        [](std::uint32_t rows, std::uint32_t cols, int index_bits, bool flat,
           const Array<std::uint8_t>& codes, const Array<std::uint8_t>& gaps,
           const Array<std::uint32_t>& row_lengths, const Array<float>& values) {
            return packed(spmm::pack_values, rows, cols, index_bits, flat, codes, gaps, row_lengths,
                          values);
        },
        py::arg("rows"), py::arg("cols"), py::arg("index_bits"), py::arg("flat"),
        py::arg("codes").noconvert(), py::arg("gaps").noconvert(),
        py::arg("row_lengths").noconvert(), py::arg("values").noconvert());
    module.def(
        "spmm_multiply",
        [](const PackedMatrix& matrix, const Array<float>& x, const Array<float>& bias,
           Array<float>& out, const std::string& precision, int threads) {
            if (x.ndim() != 2) throw std::invalid_argument("x must have two dimensions here");
            const Precision wanted = parse_precision(precision);
            const auto source = view(x);
            const auto offset = view(bias);
            const auto target = writable(out);
            const auto batch = static_cast<std::size_t>(x.shape(0));
            const py::gil_scoped_release release;
            spmm::multiply(matrix, source, batch, offset, target, wanted, threads);
        },
        py::arg("packed"), py::arg("x").noconvert(), py::arg("bias").noconvert(),
        py::arg("out").noconvert(), py::arg("precision"), py::arg("threads"));
    module.def(
        "spmm_multiply_ptr",
        [](const PackedMatrix& matrix, std::uintptr_t x, std::size_t batch, std::uintptr_t bias,
           std::uintptr_t y, const std::string& precision, int threads) {
            const Precision wanted = parse_precision(precision);
            const py::gil_scoped_release release;
            spmm::multiply(matrix, {pointer<const float>(x), batch * matrix.cols()}, batch,
                           {pointer<const float>(bias), bias == 0 ? 0 : matrix.rows()},
                           {pointer<float>(y), batch * matrix.rows()}, wanted, threads);
        },
        "As spmm_multiply on raw addresses of contiguous float32 memory: nothing is checked.",
        py::arg("packed"), py::arg("x"), py::arg("batch"), py::arg("bias"), py::arg("y"),
        py::arg("precision"), py::arg("threads"));
}

}  // namespace tersor::bindings
