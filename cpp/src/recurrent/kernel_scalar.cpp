// The gates, portable: exp and tanh in double.
#include <cmath>

#include "recurrent/kernels.hpp"

namespace tersor::recurrent {
namespace {

float sigmoid(float x) noexcept { return static_cast<float>(1.0 / (1.0 + std::exp(-double{x}))); }

float tanh_of(float x) noexcept { return static_cast<float>(std::tanh(double{x})); }

void lstm(const float* gates, std::size_t size, float* c, float* h) noexcept {
    for (std::size_t i = 0; i < size; ++i) {
        const float kept = sigmoid(gates[size + i]) * c[i];
        c[i] = kept + sigmoid(gates[i]) * tanh_of(gates[2 * size + i]);
        h[i] = sigmoid(gates[3 * size + i]) * tanh_of(c[i]);
    }
}

void gru(const float* x, const float* y, std::size_t size, float* h) noexcept {
    for (std::size_t i = 0; i < size; ++i) {
        const float r = sigmoid(x[i] + y[i]);
        const float z = sigmoid(x[size + i] + y[size + i]);
        const float n = tanh_of(x[2 * size + i] + r * y[2 * size + i]);
        h[i] = n + z * (h[i] - n);
    }
}

void tanh(const float* gate, std::size_t size, float* h) noexcept {
    for (std::size_t i = 0; i < size; ++i) h[i] = tanh_of(gate[i]);
}

}  // namespace

void install(dispatch::Level<Isa::scalar>, Kernels& kernels) noexcept {
    kernels = {lstm, gru, tanh};
}

}  // namespace tersor::recurrent
