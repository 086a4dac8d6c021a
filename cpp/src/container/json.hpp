// The JSON that safetensors headers are made of: objects, arrays, strings and non-negative
// integers, parsed strictly because the bytes come from anywhere.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "tersor/status.hpp"

namespace tersor::container {

struct JsonMember;

struct JsonValue {
    using Numbers = std::vector<std::uint64_t>;  // an array that begins with a number
    using Array = std::vector<JsonValue>;        // any other
    using Object = std::vector<JsonMember>;      // in the order of the text

    std::variant<std::uint64_t, std::string, Numbers, Array, Object> value;
    std::size_t position = 0;  // of its first byte in the text

    template <class T>
    [[nodiscard]] const T* as() const noexcept {
        return std::get_if<T>(&value);
    }
    /// The member of an object, or nullptr.
    [[nodiscard]] const JsonValue* find(std::string_view key) const noexcept;
};

/// A member of an object.
struct JsonMember {
    std::string name;
    JsonValue value;
};

/// Parses one value and nothing after it but white space. Rejects duplicate keys, more than 8
/// objects and arrays within each other, control characters, malformed UTF-8, and what would take
/// more than `max_bytes` of memory. `count` is the offset of a fault.
[[nodiscard]] Result parse_json(std::string_view text, JsonValue& value,
                                std::size_t max_bytes = SIZE_MAX);

/// Whether the text is well-formed UTF-8, which is all that the parser accepts in strings.
[[nodiscard]] bool is_utf8(std::string_view text) noexcept;

/// Appends the text, which must be UTF-8, as a JSON string, quotes included.
void append_json_string(std::string_view text, std::string& out);

}  // namespace tersor::container
