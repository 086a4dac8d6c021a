#include "arguments.hpp"

#include <stdexcept>

namespace tersor::bindings {
namespace {

template <class T>
std::span<T> at(std::uintptr_t address, std::size_t size) {
    if (address == 0) return {};
    return {reinterpret_cast<T*>(address), size};  // NOLINT(performance-no-int-to-ptr)
}

}  // namespace

Precision parse_precision(const std::string& name) {
    if (name == "highest") return Precision::highest;
    if (name == "high") return Precision::high;
    if (name == "medium") return Precision::medium;
    if (name == "low") return Precision::low;
    throw std::invalid_argument("precision '" + name + "' is none of highest, high, medium, low");
}

Activation parse_activation(const std::string& name) {
    if (name == "none") return Activation::none;
    if (name == "relu") return Activation::relu;
    if (name == "relu6") return Activation::relu6;
    if (name == "gelu") return Activation::gelu;
    if (name == "silu") return Activation::silu;
    throw std::invalid_argument("activation '" + name +
                                "' is none of none, relu, relu6, gelu, silu");
}

FloatView view_at(std::uintptr_t address, std::size_t size, bool bfloat16) {
    if (bfloat16) return at<const BFloat16>(address, size);
    return at<const float>(address, size);
}

FloatSpan span_at(std::uintptr_t address, std::size_t size, bool bfloat16) {
    if (bfloat16) return at<BFloat16>(address, size);
    return at<float>(address, size);
}

}  // namespace tersor::bindings
