#include <optional>

#include "bindings.hpp"
#include "csr_arrays.hpp"

namespace tersor::bindings {

RelativeCsr to_csr(std::uint32_t rows, std::uint32_t cols, int index_bits, bool flat,
                   const Array<std::uint8_t>& codes, const Array<std::uint8_t>& gaps,
                   const Array<std::uint32_t>& row_lengths) {
    const auto copy = [](const auto& array) {
        const auto span = view(array);
        return std::vector(span.begin(), span.end());
    };
    return {rows, cols, index_bits, flat, copy(codes), copy(gaps), copy(row_lengths)};
}

py::tuple from_csr(const RelativeCsr& csr) {
    return py::make_tuple(csr.rows, csr.cols, csr.index_bits, csr.flat, to_numpy(csr.codes),
                          to_numpy(csr.gaps), to_numpy(csr.row_lengths));
}

namespace {

void check_matrix(const Array<std::uint8_t>& codes) {
    if (codes.ndim() != 2) throw std::invalid_argument("codes must be a matrix [rows, cols]");
    if (codes.shape(0) > UINT32_MAX || codes.shape(1) > UINT32_MAX) {
        throw std::invalid_argument("codes have more than 2^32 - 1 rows or columns");
    }
}

}  // namespace

void register_csr(py::module_& module) {
    module.def(
        "csr_encode",
        [](const Array<std::uint8_t>& codes, int index_bits, bool flat) {
            check_matrix(codes);
            RelativeCsr csr;
            {
                const auto matrix = view(codes);
                const auto rows = static_cast<std::uint32_t>(codes.shape(0));
                const auto cols = static_cast<std::uint32_t>(codes.shape(1));
                const py::gil_scoped_release release;
                csr = csr::encode(matrix, rows, cols, index_bits, flat);
            }
            return from_csr(csr);
        },
        py::arg("codes").noconvert(), py::arg("index_bits"), py::arg("flat"));
    module.def(
        "csr_count_entries",
        [](const Array<std::uint8_t>& codes, int index_bits, bool flat) {
            check_matrix(codes);
            const auto matrix = view(codes);
            const auto rows = static_cast<std::uint32_t>(codes.shape(0));
            const auto cols = static_cast<std::uint32_t>(codes.shape(1));
            csr::EntryCount count;
            {
                const py::gil_scoped_release release;
                count = csr::count_entries(matrix, rows, cols, index_bits, flat);
            }
            return py::make_tuple(count.entries, count.fillers);
        },
        py::arg("codes").noconvert(), py::arg("index_bits"), py::arg("flat"));
    module.def(
        "csr_decode",
        [](std::uint32_t rows, std::uint32_t cols, int index_bits, bool flat,
           const Array<std::uint8_t>& codes, const Array<std::uint8_t>& gaps,
           const Array<std::uint32_t>& row_lengths, std::optional<std::size_t> believed) {
            const RelativeCsr csr = to_csr(rows, cols, index_bits, flat, codes, gaps, row_lengths);
            // Before the dense matrix is allocated: its size is only announced.
            throw_if_error(csr::validate(csr), "RelativeCsr", "entry");
            throw_if_error(csr::dense_size(csr, believed), "RelativeCsr", "entry");
            Array<std::uint8_t> dense({rows, cols});
            const auto out = writable(dense);
            {
                const py::gil_scoped_release release;
                throw_if_error(csr::decode(csr, out), "RelativeCsr", "entry");
            }
            return dense;
        },
        py::arg("rows"), py::arg("cols"), py::arg("index_bits"), py::arg("flat"),
        py::arg("codes").noconvert(), py::arg("gaps").noconvert(),
        py::arg("row_lengths").noconvert(), py::arg("believed") = py::none());
    module.def(
        "csr_validate",
        [](std::uint32_t rows, std::uint32_t cols, int index_bits, bool flat,
           const Array<std::uint8_t>& codes, const Array<std::uint8_t>& gaps,
           const Array<std::uint32_t>& row_lengths) {
            const RelativeCsr matrix =
                to_csr(rows, cols, index_bits, flat, codes, gaps, row_lengths);
            const Result result = csr::validate(matrix);
            throw_if_error(result, "RelativeCsr", "entry");
            return result.count;
        },
        py::arg("rows"), py::arg("cols"), py::arg("index_bits"), py::arg("flat"),
        py::arg("codes").noconvert(), py::arg("gaps").noconvert(),
        py::arg("row_lengths").noconvert());
}

}  // namespace tersor::bindings
