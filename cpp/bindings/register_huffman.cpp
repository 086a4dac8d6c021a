#include <algorithm>

#include "bindings.hpp"
#include "tersor/huffman.hpp"
#include "tersor/status.hpp"

namespace tersor::bindings {
namespace {

huffman::Histogram to_histogram(const Array<std::uint64_t>& counts) {
    if (counts.size() != static_cast<py::ssize_t>(huffman::alphabet_size)) {
        throw std::invalid_argument("a histogram has 256 counts");
    }
    huffman::Histogram histogram{};
    const auto source = view(counts);
    std::copy(source.begin(), source.end(), histogram.begin());
    return histogram;
}

}  // namespace

void register_huffman(py::module_& module) {
    module.def(
        "huffman_histogram",
        [](const Array<std::uint8_t>& symbols) {
            const huffman::Histogram counts = huffman::histogram(view(symbols));
            return Array<std::uint64_t>(static_cast<py::ssize_t>(counts.size()), counts.data());
        },
        py::arg("symbols").noconvert());
    module.def(
        "huffman_entropy",
        [](const Array<std::uint64_t>& counts) { return huffman::entropy(to_histogram(counts)); },
        py::arg("histogram").noconvert());
    module.def(
        "huffman_code_lengths",
        [](const Array<std::uint64_t>& counts, int max_length) {
            const auto lengths = huffman::code_lengths(to_histogram(counts), max_length);
            return Array<std::uint8_t>(static_cast<py::ssize_t>(lengths.size()), lengths.data());
        },
        py::arg("histogram").noconvert(), py::arg("max_length"));
    module.def(
        "huffman_encode",
        [](const Array<std::uint8_t>& symbols, int threads) {
            const auto source = view(symbols);
            std::vector<std::uint8_t> stream;
            {
                const py::gil_scoped_release release;
                stream = huffman::encode(source, threads);
            }
            return to_numpy(stream);
        },
        py::arg("symbols").noconvert(), py::arg("threads"));
    module.def(
        "huffman_inspect",
        [](const Array<std::uint8_t>& stream) {
            huffman::StreamInfo info;
            throw_if_error(huffman::inspect(view(stream), info), "Huffman stream");
            return py::make_tuple(info.symbols, info.header_bytes, info.payload_bits);
        },
        py::arg("stream").noconvert());
    module.def(
        "huffman_decode",
        [](const Array<std::uint8_t>& stream, std::size_t first, Array<std::uint8_t>& out,
           int threads, bool verify) {
            const auto source = view(stream);
            const auto target = writable(out);
            Result result;
            {
                const py::gil_scoped_release release;
                result = huffman::decode_range(source, first, target,
                                               {.threads = threads, .verify = verify});
            }
            throw_if_error(result, "Huffman stream");
        },
        py::arg("stream").noconvert(), py::arg("first"), py::arg("out").noconvert(),
        py::arg("threads"), py::arg("verify"));
}

}  // namespace tersor::bindings
