// The kernels that cut elements into fields and join them, one column per instruction-set level.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "dispatch/kernel_table.hpp"
#include "lossless/layout.hpp"
#include "tersor/isa.hpp"

namespace tersor::lossless {

/// Where the fields of a run of elements stand: a byte for each element.
struct Fields {
    std::array<const std::uint8_t*, max_fields> bytes{};
    bool packed = false;  // field 1 has its bits without gaps; a run begins with a byte
};

struct FieldsOut {
    std::array<std::uint8_t*, max_fields> bytes{};
    bool packed = false;
};

/// The fields of a run without its first `count` elements, a multiple of eight.
template <class F>
[[nodiscard]] F after(const Layout& layout, F fields, std::size_t count) noexcept {
    for (std::size_t f = 0; f < layout.width; ++f) {
        if (fields.bytes[f] == nullptr) continue;
        const bool gapless = f == 1 && fields.packed;
        fields.bytes[f] += gapless ? count / 8 * static_cast<std::size_t>(layout.bits(1)) : count;
    }
    return fields;
}

/// Writes the elements of a run; past the caches where `streaming`, and `elements` is aligned to 64
/// bytes then.
using JoinFields = void (*)(const Layout& layout, const Fields& fields, std::size_t count,
                            std::uint8_t* elements, bool streaming) noexcept;

/// The inverse. False where an exponent leaves no room for the bits that join it: then the fields
/// hold anything. A field without a place is left out.
using CutFields = bool (*)(const Layout& layout, const std::uint8_t* elements, std::size_t count,
                           const FieldsOut& fields) noexcept;

/// What the reader of a file needs.
struct DecodeKernels {
#define TERSOR_KERNEL(name, type) type name = nullptr;
#include "lossless/decode_kernels.def"
#undef TERSOR_KERNEL
};

/// What only the writer needs.
struct EncodeKernels {
#define TERSOR_KERNEL(name, type) type name = nullptr;
#include "lossless/encode_kernels.def"
#undef TERSOR_KERNEL
};

void install(dispatch::Level<Isa::scalar>, DecodeKernels& kernels) noexcept;
void install(dispatch::Level<Isa::avx2>, DecodeKernels& kernels) noexcept;
void install(dispatch::Level<Isa::avx512>, DecodeKernels& kernels) noexcept;

void install(dispatch::Level<Isa::scalar>, EncodeKernels& kernels) noexcept;
void install(dispatch::Level<Isa::avx2>, EncodeKernels& kernels) noexcept;
void install(dispatch::Level<Isa::avx512>, EncodeKernels& kernels) noexcept;

/// The kernels of a level.
[[nodiscard]] const DecodeKernels& decode_kernels(Isa isa) noexcept;
[[nodiscard]] const EncodeKernels& encode_kernels(Isa isa) noexcept;

}  // namespace tersor::lossless
