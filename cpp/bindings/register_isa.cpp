#include "bindings.hpp"
#include "tersor/isa.hpp"
#include "tersor/parallel.hpp"
#include "tersor/version.hpp"

namespace tersor::bindings {
namespace {

Isa parse(const std::string& wanted) {
    const auto isa = isa_from_name(wanted);
    if (!isa.has_value()) throw std::invalid_argument("unknown instruction set '" + wanted + "'");
    return *isa;
}

}  // namespace

void register_isa(py::module_& module) {
    module.def("version", [] { return std::string(version()); });
    module.def("compiler", [] { return std::string(compiler()); });
    module.def("compiled_isas", [] {
        std::vector<std::string> names;
        for (const Isa isa : compiled_isas()) names.emplace_back(name(isa));
        return names;
    });
    module.def(
        "isa_available", [](const std::string& isa) { return available(parse(isa)); },
        py::arg("name"));
    module.def("isa_in_use", [] { return std::string(name(isa_in_use())); });
    module.def("use_isa", [](const std::string& isa) { use_isa(parse(isa)); }, py::arg("name"));
    module.def("parallel_runner_name", [] { return std::string(parallel_runner_name()); });
}

}  // namespace tersor::bindings
