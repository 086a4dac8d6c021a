// Joining fields without vectors of its own: the compiler makes some of the loops over bytes.
#include "lossless/element.hpp"
#include "lossless/kernels.hpp"
#include "support/little_endian.hpp"

namespace tersor::lossless {
namespace {

template <std::unsigned_integral T, Transform transform, bool packed>
void join(const Layout& layout, const Fields& fields, std::size_t count,
          std::uint8_t* elements) noexcept {
    const T base = base_of<T>(layout);
    const int top = bits_of<T> - 8 - layout.joined;
    for (std::size_t i = 0; i < count; ++i) {
        T y = static_cast<T>(T{fields.bytes[0][i]} << top);
        for (std::size_t f = 1; f < sizeof(T); ++f) {
            const std::uint8_t byte = packed && f == 1
                                          ? packed_bits(fields.bytes[1], layout.bits(1), i)
                                          : fields.bytes[f][i];
            y = static_cast<T>(y | static_cast<T>(T{byte} << (8 * (sizeof(T) - 1 - f))));
        }
        y = static_cast<T>(y + base);
        support::store_little_endian(backward<T, transform>(y), elements + i * sizeof(T));
    }
}

void join_fields(const Layout& layout, const Fields& fields, std::size_t count,
                 std::uint8_t* elements, bool /*streaming*/) noexcept {
    with_layout(layout, fields.packed, [&]<class T, Transform transform, bool packed>() noexcept {
        join<T, transform, packed>(layout, fields, count, elements);
    });
}

}  // namespace

void install(dispatch::Level<Isa::scalar>, DecodeKernels& kernels) noexcept {
    kernels.join_fields = join_fields;
}

}  // namespace tersor::lossless
