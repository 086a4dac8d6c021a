#include "spmm/epilogue/outputs.hpp"

#include <bit>

namespace tersor::spmm {
namespace {

const void* advance(const void* data, FloatType type, std::size_t count) noexcept {
    return data == nullptr ? nullptr : static_cast<const char*>(data) + count * size_of(type);
}

void* advance(void* data, FloatType type, std::size_t count) noexcept {
    return static_cast<char*>(data) + count * size_of(type);
}

}  // namespace

Outputs Outputs::past(std::size_t count) const noexcept {
    Outputs later = *this;
    later.products += count * rows;
    later.residual = advance(residual, residual_type, count * rows);
    later.y = advance(y, y_type, count * rows);
    return later;
}

void Outputs::apply_to_rows(const float* from, std::size_t at, std::size_t row,
                            std::size_t count) const noexcept {
    void* to = advance(y, y_type, at);
    if (from == to && activation == Activation::none && residual == nullptr && factors == nullptr) {
        return;
    }
    const epilogue::Operands operands{factors != nullptr ? factors + row : nullptr,
                                      scaled_bias != nullptr ? scaled_bias + row : nullptr,
                                      advance(residual, residual_type, at), residual_type};
    kernel(from, count, activation, operands, to, y_type);
}

Outputs make_outputs(Isa isa, std::size_t rows, const Epilogue& epilogue,
                     std::span<float> wide_bias, FloatSpan y,
                     std::span<const float> factors) noexcept {
    Outputs out;
    if (y.type == FloatType::float32) out.products = static_cast<float*>(y.data);
    out.bias = as_float(epilogue.bias, wide_bias);
    if (!factors.empty()) {
        out.factors = factors.data();
        if (!out.bias.empty()) out.scaled_bias = out.bias.data();
        out.bias = {};
    }
    out.rows = rows;
    out.kernel = epilogue::kernels(isa).apply;
    out.activation = epilogue.activation;
    out.residual = epilogue.residual.size != 0 ? epilogue.residual.data : nullptr;
    out.residual_type = epilogue.residual.type;
    out.y = y.data;
    out.y_type = y.type;
    return out;
}

std::span<const float> as_float(FloatView view, std::span<float> scratch) noexcept {
    if (view.type == FloatType::float32) return {static_cast<const float*>(view.data), view.size};
    const auto* from = static_cast<const BFloat16*>(view.data);
    for (std::size_t i = 0; i < view.size; ++i) {
        scratch[i] = std::bit_cast<float>(std::uint32_t{from[i].bits} << 16U);
    }
    return scratch.first(view.size);
}

FloatView part_of(FloatView view, std::size_t begin, std::size_t count) noexcept {
    view.data = advance(view.data, view.type, begin);
    view.size = count;
    return view;
}

}  // namespace tersor::spmm
