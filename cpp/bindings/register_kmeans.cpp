#include "bindings.hpp"
#include "tersor/kmeans.hpp"

namespace tersor::bindings {
namespace {

template <class T>
T choice(const std::string& name, std::initializer_list<std::pair<const char*, T>> choices) {
    std::string known;
    for (const auto& [text, value] : choices) {
        if (name == text) return value;
        known += std::string(known.empty() ? "" : ", ") + text;
    }
    throw std::invalid_argument("'" + name + "' is none of " + known);
}

}  // namespace

void register_kmeans(py::module_& module) {
    module.def(
        "kmeans_cluster",
        [](const Array<float>& x, int clusters, const Array<float>& importance,
           const std::string& mode, const std::string& initialization, int max_iterations,
           std::uint64_t seed, int threads) {
            const kmeans::Options options{
                choice<kmeans::Mode>(
                    mode, {{"exact", kmeans::Mode::exact}, {"lloyd", kmeans::Mode::lloyd}}),
                choice<kmeans::Initialization>(initialization,
                                               {{"linear", kmeans::Initialization::linear},
                                                {"density", kmeans::Initialization::density},
                                                {"random", kmeans::Initialization::random}}),
                max_iterations, seed, threads};
            Array<std::uint8_t> codes(x.size());
            const auto values = view(x);
            const auto weights = view(importance);
            const auto target = writable(codes);
            kmeans::Clustering result;
            {
                const py::gil_scoped_release release;
                result = kmeans::cluster(values, clusters, weights, target, options);
            }
            return py::make_tuple(to_numpy(result.values), codes, result.distortion);
        },
        py::arg("x").noconvert(), py::arg("clusters"), py::arg("importance").noconvert(),
        py::arg("mode"), py::arg("initialization"), py::arg("max_iterations"), py::arg("seed"),
        py::arg("threads"));
}

}  // namespace tersor::bindings
