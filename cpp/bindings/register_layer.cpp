#include <optional>

#include "bindings.hpp"
#include "csr_arrays.hpp"
#include "tersor/layer.hpp"
#include "tersor/pack_layer.hpp"

namespace tersor::bindings {
namespace {

constexpr const char* kind_names[] = {"shared_fp32", "shared_fp16", "plain_fp32", "plain_fp16"};

ValueKind parse_kind(const std::string& name) {
    for (std::size_t i = 0; i < std::size(kind_names); ++i) {
        if (name == kind_names[i]) return static_cast<ValueKind>(i);
    }
    throw std::invalid_argument("kind '" + name +
                                "' is none of shared_fp32, shared_fp16, plain_fp32, plain_fp16");
}

constexpr const char* entropy_names[] = {"huffman", "smallest"};

Entropy parse_entropy(const std::string& name) {
    for (std::size_t i = 0; i < std::size(entropy_names); ++i) {
        if (name == entropy_names[i]) return static_cast<Entropy>(i);
    }
    throw std::invalid_argument("entropy '" + name + "' is none of huffman, smallest");
}

std::string entropy_name(Entropy entropy) {
    return entropy_names[static_cast<std::size_t>(entropy)];
}

std::string kind_name(ValueKind kind) { return kind_names[static_cast<std::size_t>(kind)]; }

py::dict to_dict(const LayerInfo& info) {
    py::dict dict;
    dict["shape"] = py::tuple(py::cast(info.shape));
    dict["kind"] = kind_name(info.kind);
    dict["index_bits"] = info.index_bits;
    dict["flat"] = info.flat;
    dict["entropy"] = entropy_name(info.entropy);
    dict["weights"] = info.weights;
    dict["nonzeros"] = info.nonzeros;
    dict["entries"] = info.entries;
    dict["clusters"] = info.clusters;
    dict["header_bytes"] = info.header_bytes;
    dict["value_bytes"] = info.value_bytes;
    dict["factor_bytes"] = info.factor_bytes;
    dict["code_bytes"] = info.code_bytes;
    dict["code_bits"] = info.code_bits;
    dict["gap_bytes"] = info.gap_bytes;
    dict["gap_bits"] = info.gap_bits;
    dict["row_length_bytes"] = info.row_length_bytes;
    dict["total_bytes"] = info.total_bytes;
    dict["decoded_bytes"] = info.decoded_bytes;
    dict["packing_bytes"] = info.packing_bytes;
    return dict;
}

/// Factors as Python has them: None where there are none.
py::object factors(const std::vector<float>& values) {
    return values.empty() ? py::object(py::none()) : py::object(to_numpy(values));
}

/// What `decode` makes of a blob, without the interpreter's lock: shape, kind, matrix, values,
/// factors of the rows, factors of the columns, entropy.
template <class Decode>
py::tuple decoded(const Decode& decode, const Array<std::uint8_t>& blob) {
    const auto bytes = view(blob);
    Layer layer;
    Result result;
    {
        const py::gil_scoped_release release;
        result = decode(bytes, layer);
    }
    throw_if_error(result, "layer blob");
    return py::make_tuple(py::tuple(py::cast(layer.shape)), kind_name(layer.kind),
                          from_csr(layer.csr), to_numpy(layer.values), factors(layer.row_factors),
                          factors(layer.column_factors), entropy_name(layer.entropy));
}

}  // namespace

void register_layer(py::module_& module) {
    module.def(
        "layer_encode",
        [](const std::vector<std::uint64_t>& shape, const std::string& kind, std::uint32_t rows,
           std::uint32_t cols, int index_bits, bool flat, const Array<std::uint8_t>& codes,
           const Array<std::uint8_t>& gaps, const Array<std::uint32_t>& row_lengths,
           const Array<float>& values, const std::optional<Array<float>>& row_factors,
           const std::optional<Array<float>>& column_factors, const std::string& entropy) {
            const auto to_vector = [](const Array<float>& array) {
                const auto source = view(array);
                return std::vector<float>(source.begin(), source.end());
            };
            const auto factors_of = [&](const std::optional<Array<float>>& array) {
                return array.has_value() ? to_vector(*array) : std::vector<float>();
            };
            const Layer layer{shape,
                              parse_kind(kind),
                              to_csr(rows, cols, index_bits, flat, codes, gaps, row_lengths),
                              to_vector(values),
                              factors_of(row_factors),
                              factors_of(column_factors),
                              parse_entropy(entropy)};
            std::vector<std::uint8_t> blob;
            {
                const py::gil_scoped_release release;
                blob = encode_layer(layer);
            }
            return to_numpy(blob);
        },
        py::arg("shape"), py::arg("kind"), py::arg("rows"), py::arg("cols"), py::arg("index_bits"),
        py::arg("flat"), py::arg("codes").noconvert(), py::arg("gaps").noconvert(),
        py::arg("row_lengths").noconvert(), py::arg("values").noconvert(), py::arg("row_factors"),
        py::arg("column_factors"), py::arg("entropy"));
    module.def(
        "layer_decode",
        [](const Array<std::uint8_t>& blob, std::optional<std::size_t> max_bytes, int threads) {
            return decoded(
                [&](std::span<const std::uint8_t> bytes, Layer& layer) {
                    return decode_layer(bytes, layer, max_bytes, threads);
                },
                blob);
        },
        py::arg("blob").noconvert(), py::arg("max_bytes"), py::arg("threads"));
    module.def(
        "layer_decode_rows",
        [](const Array<std::uint8_t>& blob, std::size_t first, std::size_t count, bool verify,
           std::optional<std::size_t> max_bytes, int threads) {
            return decoded(
                [&](std::span<const std::uint8_t> bytes, Layer& layer) {
                    return decode_rows(bytes, first, count, layer, verify, max_bytes, threads);
                },
                blob);
        },
        py::arg("blob").noconvert(), py::arg("first"), py::arg("count"), py::arg("verify"),
        py::arg("max_bytes"), py::arg("threads"));
    module.def(
        "layer_pack",
        [](const Array<std::uint8_t>& blob, std::optional<std::size_t> max_bytes, int threads) {
            const auto bytes = view(blob);
            PackedMatrix matrix;
            Result result;
            {
                const py::gil_scoped_release release;
                result = pack_layer(bytes, matrix, max_bytes, threads);
            }
            throw_if_error(result, "layer blob");
            return matrix;
        },
        py::arg("blob").noconvert(), py::arg("max_bytes"), py::arg("threads"));
    module.def(
        "layers_pack",
        [](const std::vector<Array<std::uint8_t>>& blobs, std::size_t max_bytes, int threads) {
            std::vector<std::span<const std::uint8_t>> bytes;
            for (const Array<std::uint8_t>& blob : blobs) bytes.push_back(view(blob));
            std::vector<PackedMatrix> matrices(blobs.size());
            std::vector<Result> results;
            {
                const py::gil_scoped_release release;
                results = pack_layers(bytes, matrices, max_bytes, threads);
            }
            for (std::size_t i = 0; i < results.size(); ++i) {
                throw_if_error(results[i], "layer blob " + std::to_string(i));
            }
            py::list packed;
            for (PackedMatrix& matrix : matrices) packed.append(std::move(matrix));
            return packed;
        },
        py::arg("blobs"), py::arg("max_bytes"), py::arg("threads"));
    module.def(
        "layer_inspect",
        [](const Array<std::uint8_t>& blob, bool verify) {
            LayerInfo info;
            throw_if_error(inspect_layer(view(blob), info, verify), "layer blob");
            return to_dict(info);
        },
        py::arg("blob").noconvert(), py::arg("verify"));
    module.def(
        "is_layer", [](const Array<std::uint8_t>& blob) { return is_layer(view(blob)); },
        py::arg("blob").noconvert());
}

}  // namespace tersor::bindings
