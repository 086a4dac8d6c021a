#include "arguments.hpp"
#include "bindings.hpp"
#include "csr_arrays.hpp"
#include "fast_call.hpp"
#include "tersor/rows.hpp"

namespace tersor::bindings {
namespace {

/// The position of the first index that is out of range, or None.
py::object look_up(const Arguments& arguments) {
    arguments.expect(6);
    const auto& packed = arguments.instance<PackedRows>(0);
    const std::size_t count = arguments.size(2);
    const void* const from = reinterpret_cast<const void*>(arguments.size(1));
    const std::span indices(static_cast<const std::int64_t*>(from), count);
    const FloatSpan out =
        span_at(arguments.size(3), count * packed.cols(), arguments.integer(4) != 0);
    const int threads = arguments.integer(5);
    std::optional<std::size_t> wrong;
    {
        const py::gil_scoped_release release;
        wrong = rows::look_up(packed, indices, out, threads);
    }
    if (!wrong.has_value()) return py::none();
    return py::int_(*wrong);
}

}  // namespace

void register_rows(py::module_& module) {
    py::class_<PackedRows>(module, "PackedRows",
                           "Rows of codes, each decoded when it is looked up.")
        .def_property_readonly("rows", &PackedRows::rows)
        .def_property_readonly("cols", &PackedRows::cols)
        .def_property_readonly("bits", &PackedRows::bits)
        .def_property_readonly("codebook_size", &PackedRows::codebook_size)
        .def_property_readonly("nbytes", &PackedRows::nbytes)
        .def_property_readonly("isa",
                               [](const PackedRows& r) { return std::string(name(r.isa())); })
        .def("with_codebook", [](const PackedRows& r, const Array<float>& codebook) {
            return r.with_codebook(view(codebook));
        });
    module.def(
        "rows_pack",
        [](std::uint32_t rows, std::uint32_t cols, int index_bits, bool flat,
           const Array<std::uint8_t>& codes, const Array<std::uint8_t>& gaps,
           const Array<std::uint32_t>& row_lengths, const Array<float>& codebook,
           const std::optional<Array<float>>& factors, int threads) {
            const RelativeCsr csr = to_csr(rows, cols, index_bits, flat, codes, gaps, row_lengths);
            const auto values = view(codebook);
            const auto scales = factors.has_value() ? view(*factors) : std::span<const float>();
            PackedRows packed;
            Result result;
            {
                const py::gil_scoped_release release;
                result = rows::pack(csr, values, packed, scales, threads);
            }
            throw_if_error(result, "pack", "entry");
            return packed;
        },
        py::arg("rows"), py::arg("cols"), py::arg("index_bits"), py::arg("flat"),
        py::arg("codes").noconvert(), py::arg("gaps").noconvert(),
        py::arg("row_lengths").noconvert(), py::arg("codebook").noconvert(),
        py::arg("factors").noconvert(), py::arg("threads"));
    def_fast<look_up>(
        module, "rows_look_up",
        "rows_look_up(packed: PackedRows, indices: int, count: int, out: int, bfloat16: int, "
        "threads: int) -> int | None\n\n"
        "Decodes the rows of `count` indices (int64) into `out`, both raw addresses of contiguous "
        "memory; gives the position of the first index that is out of range.");
}

}  // namespace tersor::bindings
