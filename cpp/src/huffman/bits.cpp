#include "huffman/bits.hpp"

namespace tersor::huffman {

Result read_fields(std::span<const std::uint8_t> bytes, int width,
                   std::span<std::uint8_t> fields) noexcept {
    const std::uint64_t size = fields_size(fields.size(), width);
    if (bytes.size() < size) return {Status::truncated, bytes.size()};
    if (bytes.size() > size) return {Status::trailing_bytes, static_cast<std::size_t>(size)};
    std::size_t at = 0;
    const unsigned mask = (1U << width) - 1;
    for (std::uint8_t& field : fields) {
        const std::size_t byte = at / 8;
        const unsigned low = bytes[byte];
        const unsigned high = byte + 1 < bytes.size() ? bytes[byte + 1] : 0U;
        field = static_cast<std::uint8_t>(((low | (high << 8)) >> (at % 8)) & mask);
        at += static_cast<std::size_t>(width);
    }
    if (at % 8 != 0 && bytes.back() >> (at % 8) != 0) {
        return {Status::bad_code_word, bytes.size() - 1};
    }
    return {Status::ok, bytes.size()};
}

}  // namespace tersor::huffman
