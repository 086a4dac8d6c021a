// Cutting elements without vectors of its own.
#include "lossless/element.hpp"
#include "lossless/kernels.hpp"
#include "support/little_endian.hpp"

namespace tersor::lossless {
namespace {

template <std::unsigned_integral T, Transform transform>
bool cut(const Layout& layout, const std::uint8_t* elements, std::size_t count,
         const FieldsOut& fields) noexcept {
    const T base = base_of<T>(layout);
    const int width = layout.bits(1);
    T top = 0;
    unsigned pending = 0;
    int filled = 0;
    std::uint8_t* packed = fields.packed ? fields.bytes[1] : nullptr;
    for (std::size_t i = 0; i < count; ++i) {
        const T x = support::load_little_endian<T>(elements + i * sizeof(T));
        const T y = static_cast<T>(forward<T, transform>(x) - base);
        top = static_cast<T>(top | y);
        const T joined = static_cast<T>(y << layout.joined);
        if (fields.bytes[0] != nullptr) {
            fields.bytes[0][i] = static_cast<std::uint8_t>(joined >> (bits_of<T> - 8));
        }
        if (fields.bytes[1] != nullptr) {
            const auto second = static_cast<std::uint8_t>(
                static_cast<std::uint8_t>(joined >> (bits_of<T> - 16)) >> layout.joined);
            if (packed == nullptr) {
                fields.bytes[1][i] = second;
            } else {
                pending |= unsigned{second} << filled;
                for (filled += width; filled >= 8; filled -= 8, pending >>= 8) {
                    *packed++ = static_cast<std::uint8_t>(pending);
                }
            }
        }
        for (std::size_t f = 2; f < sizeof(T); ++f) {
            if (fields.bytes[f] == nullptr) continue;
            fields.bytes[f][i] = static_cast<std::uint8_t>(y >> (8 * (sizeof(T) - 1 - f)));
        }
    }
    if (filled > 0) *packed = static_cast<std::uint8_t>(pending);
    return layout.joined == 0 || top >> (bits_of<T> - layout.joined) == 0;
}

bool cut_fields(const Layout& layout, const std::uint8_t* elements, std::size_t count,
                const FieldsOut& fields) noexcept {
    return with_layout(layout, [&]<class T, Transform transform>() noexcept {
        return cut<T, transform>(layout, elements, count, fields);
    });
}

}  // namespace

void install(dispatch::Level<Isa::scalar>, EncodeKernels& kernels) noexcept {
    kernels.cut_fields = cut_fields;
}

}  // namespace tersor::lossless
