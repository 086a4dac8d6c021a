// Arguments that several fast calls take.
#pragma once

#include <cstddef>

#include "arguments.hpp"
#include "fast_call.hpp"

namespace tersor::bindings {

inline Precision precision_at(const Arguments& arguments, std::size_t i) {
    static const ByName<Precision> names(parse_precision, {"highest", "high", "medium", "low"});
    return names.of(arguments, i);
}

inline Activation activation_at(const Arguments& arguments, std::size_t i) {
    static const ByName<Activation> names(parse_activation,
                                          {"none", "relu", "relu6", "gelu", "silu"});
    return names.of(arguments, i);
}

}  // namespace tersor::bindings
