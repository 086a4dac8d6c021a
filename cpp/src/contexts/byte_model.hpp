// Bytes of texts and of small tensors, one after the other: each by those before it and what stood
// there the last time. docs/format.md has the contexts.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "contexts/predictor.hpp"

namespace tersor::contexts {

/// `Coder` is an Encoder, which reads what it is given, or a Decoder, which fills it.
template <class Coder>
class ByteModel {
public:
    explicit ByteModel(Coder& coder) : coder_(coder) {}

    /// False where a decoder's stream ends before.
    bool code_text(std::span<std::uint8_t> text) {
        std::uint32_t before = 0;  // the last three
        for (std::uint8_t& byte : text) {
            if (coder_.exhausted()) return false;
            code(byte, before & 0xff, (before & 0xffff) | 1U << 24, before | 2U << 24);
            before = (before << 8 | byte) & 0xffffff;
        }
        return true;
    }

    /// Elements of `width` bytes, whose last byte has the highest bits and comes first.
    bool code_elements(std::span<std::uint8_t> bytes, std::size_t width) {
        for (std::size_t first = 0; first < bytes.size(); first += width) {
            std::uint32_t higher = 0;
            for (std::size_t place = width; place-- > 0;) {
                if (coder_.exhausted()) return false;
                const auto kind = static_cast<std::uint32_t>((3 + width * 8 + place) << 16);
                const std::uint32_t last = first > 0 ? bytes[first + place - width] : 0;
                std::uint8_t& byte = bytes[first + place];
                code(byte, kind, kind + (1U << 8) + higher, kind + (2U << 8) + last);
                higher = byte;
            }
        }
        return true;
    }

private:
    static constexpr int table_bits = 16;

    /// A place of a table for the bits of a byte so far, after what was before it.
    [[nodiscard]] static std::uint32_t place(std::uint32_t context, std::uint32_t node) noexcept {
        return ((context * 256 + node) * 0x9e3779b1U + context * 0x85ebca6bU) >> (32 - table_bits);
    }

    void code(std::uint8_t& byte, std::uint32_t first, std::uint32_t second, std::uint32_t third) {
        std::uint32_t node = 1;
        for (int bit = 7; bit >= 0; --bit) {
            const bool one = predictor_.code(
                coder_, {node, place(first, node), place(second, node), place(third, node)}, 0,
                (byte >> bit & 1) != 0);
            node = node * 2 + (one ? 1 : 0);
        }
        byte = static_cast<std::uint8_t>(node);
    }

    Coder& coder_;
    Predictor<4> predictor_{{256, 1U << table_bits, 1U << table_bits, 1U << table_bits}, 1};
};

}  // namespace tersor::contexts
