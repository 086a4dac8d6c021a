#include "container/json.hpp"

#include <algorithm>
#include <array>
#include <limits>
#include <numeric>

namespace tersor::container {
namespace {

/// How much more memory than its elements a vector that grows may hold.
constexpr std::size_t growth = 2;
constexpr std::size_t max_utf8_length = 4;
constexpr int max_depth = 8;  // objects and arrays within each other

/// Length of the UTF-8 sequence at `at`, or 0: over-long forms, surrogates and values past U+10FFFF
/// are malformed.
std::size_t utf8_length(std::string_view text, std::size_t at) noexcept {
    const auto byte = [&](std::size_t i) {
        return at + i < text.size() ? static_cast<unsigned char>(text[at + i]) : 0U;
    };
    const auto continues = [&](std::size_t i) { return (byte(i) & 0xc0U) == 0x80U; };
    const unsigned first = byte(0);
    if (first < 0x80) return 1;
    if (first >= 0xc2 && first <= 0xdf) return continues(1) ? 2 : 0;
    if (first >= 0xe0 && first <= 0xef) {
        if (!continues(1) || !continues(2)) return 0;
        if ((first == 0xe0 && byte(1) < 0xa0) || (first == 0xed && byte(1) > 0x9f)) return 0;
        return 3;
    }
    if (first >= 0xf0 && first <= 0xf4) {
        if (!continues(1) || !continues(2) || !continues(3)) return 0;
        if ((first == 0xf0 && byte(1) < 0x90) || (first == 0xf4 && byte(1) > 0x8f)) return 0;
        return 4;
    }
    return 0;
}

void append_utf8(std::uint32_t code_point, std::string& out) {
    const auto put = [&](std::uint32_t byte) { out += static_cast<char>(byte); };
    if (code_point < 0x80) {
        put(code_point);
    } else if (code_point < 0x800) {
        put(0xc0 | (code_point >> 6));
        put(0x80 | (code_point & 0x3f));
    } else if (code_point < 0x10000) {
        put(0xe0 | (code_point >> 12));
        put(0x80 | ((code_point >> 6) & 0x3f));
        put(0x80 | (code_point & 0x3f));
    } else {
        put(0xf0 | (code_point >> 18));
        put(0x80 | ((code_point >> 12) & 0x3f));
        put(0x80 | ((code_point >> 6) & 0x3f));
        put(0x80 | (code_point & 0x3f));
    }
}

class Parser {
public:
    Parser(std::string_view text, std::size_t max_bytes) noexcept : text_(text), left_(max_bytes) {}

    Result parse(JsonValue& value) {
        if (parse_value(value, 0)) {
            skip_space();
            if (at_ != text_.size()) fail(Status::bad_json);
        }
        return {status_, at_};
    }

private:
    bool fail(Status status) noexcept {
        status_ = status;
        return false;
    }
    static bool is_digit(char c) noexcept { return c >= '0' && c <= '9'; }

    /// Counts memory before it is taken.
    bool spend(std::size_t bytes) noexcept {
        if (bytes > left_) return fail(Status::too_large);
        left_ -= bytes;
        return true;
    }
    void skip_space() noexcept {
        at_ = std::min(text_.find_first_not_of(" \t\r\n", at_), text_.size());
    }
    bool accept(char c) noexcept {
        if (at_ >= text_.size() || text_[at_] != c) return false;
        ++at_;
        return true;
    }
    bool expect(char c) noexcept { return accept(c) || fail(Status::bad_json); }

    bool parse_value(JsonValue& value, int depth) {
        skip_space();
        if (at_ >= text_.size()) return fail(Status::bad_json);
        value.position = at_;
        const char first = text_[at_];
        if ((first == '{' || first == '[') && depth == max_depth) return fail(Status::bad_json);
        if (first == '{') return parse_object(value.value.emplace<JsonValue::Object>(), depth);
        if (first == '[') return parse_array(value, depth);
        if (first == '"') return parse_string(value.value.emplace<std::string>());
        return parse_number(value.value.emplace<std::uint64_t>());
    }

    bool parse_object(JsonValue::Object& object, int depth) {
        if (!expect('{')) return false;
        skip_space();
        if (accept('}')) return true;
        for (;;) {
            skip_space();
            if (!spend(growth * sizeof(JsonMember))) return false;
            auto& [key, value] = object.emplace_back();
            if (!parse_string(key)) return false;
            skip_space();
            if (!expect(':') || !parse_value(value, depth + 1)) return false;
            skip_space();
            if (accept('}')) return check_names(object);
            if (!expect(',')) return false;
        }
    }

    /// Whether no two members have the same name.
    bool check_names(const JsonValue::Object& object) {
        if (!spend(object.size() * sizeof(std::size_t))) return false;
        std::vector<std::size_t> order(object.size());
        std::iota(order.begin(), order.end(), std::size_t{0});
        const auto name = [&](std::size_t i) -> const std::string& { return object[i].name; };
        std::ranges::sort(order, {}, name);
        const auto twice = std::ranges::adjacent_find(order, {}, name);
        if (twice == order.end()) return true;
        at_ = object[std::max(twice[0], twice[1])].value.position;
        return fail(Status::duplicate_name);
    }

    bool parse_array(JsonValue& value, int depth) {
        if (!expect('[')) return false;
        skip_space();
        if (at_ < text_.size() && is_digit(text_[at_])) {
            auto& numbers = value.value.emplace<JsonValue::Numbers>();
            return parse_elements(numbers, [&](std::uint64_t& number) {
                skip_space();
                return parse_number(number);
            });
        }
        auto& array = value.value.emplace<JsonValue::Array>();
        if (accept(']')) return true;
        return parse_elements(array,
                              [&](JsonValue& element) { return parse_value(element, depth + 1); });
    }

    /// One element or more, and the bracket behind them.
    template <class Element, class Parse>
    bool parse_elements(std::vector<Element>& elements, const Parse& parse_element) {
        for (;;) {
            if (!spend(growth * sizeof(Element))) return false;
            if (!parse_element(elements.emplace_back())) return false;
            skip_space();
            if (accept(']')) return true;
            if (!expect(',')) return false;
        }
    }

    bool parse_number(std::uint64_t& number) noexcept {
        const auto digit = [&] { return at_ < text_.size() && is_digit(text_[at_]); };
        if (!digit()) return fail(Status::bad_json);
        if (text_[at_] == '0') {
            ++at_;
            number = 0;
            return !digit() || fail(Status::bad_json);
        }
        for (number = 0; digit(); ++at_) {
            const auto d = static_cast<std::uint64_t>(text_[at_] - '0');
            if (number > (std::numeric_limits<std::uint64_t>::max() - d) / 10) {
                return fail(Status::too_large);
            }
            number = number * 10 + d;
        }
        return true;
    }

    bool parse_string(std::string& string) {
        if (!expect('"')) return false;
        while (at_ < text_.size()) {
            const auto c = static_cast<unsigned char>(text_[at_]);
            if (c == '"') {
                ++at_;
                return true;
            }
            if (c < 0x20) return fail(Status::bad_json);
            if (c == '\\') {
                if (!spend(growth * max_utf8_length) || !parse_escape(string)) return false;
                continue;
            }
            const std::size_t length = utf8_length(text_, at_);
            if (length == 0) return fail(Status::bad_json);
            if (!spend(growth * length)) return false;
            string.append(text_, at_, length);
            at_ += length;
        }
        return fail(Status::truncated);
    }

    bool parse_escape(std::string& string) {
        ++at_;  // the backslash
        if (at_ >= text_.size()) return fail(Status::truncated);
        static constexpr std::string_view codes = "\"\\/bfnrt";
        static constexpr std::string_view meanings = "\"\\/\b\f\n\r\t";
        const char code = text_[at_++];
        if (const std::size_t i = codes.find(code); i != codes.npos) {
            string += meanings[i];
            return true;
        }
        std::uint32_t unit = 0;
        if (code != 'u' || !parse_hex(unit)) return fail(Status::bad_json);
        if (unit >= 0xdc00 && unit <= 0xdfff) return fail(Status::bad_json);
        if (unit >= 0xd800 && unit <= 0xdbff) {  // the first half of a surrogate pair
            std::uint32_t second = 0;
            if (!accept('\\') || !accept('u') || !parse_hex(second) || second < 0xdc00 ||
                second > 0xdfff) {
                return fail(Status::bad_json);
            }
            unit = 0x10000 + ((unit - 0xd800) << 10) + (second - 0xdc00);
        }
        append_utf8(unit, string);
        return true;
    }

    bool parse_hex(std::uint32_t& unit) noexcept {
        static constexpr std::string_view digits = "0123456789abcdef";
        for (int i = 0; i < 4; ++i, ++at_) {
            if (at_ >= text_.size()) return false;
            const char c = text_[at_];
            const char lower = c >= 'A' && c <= 'F' ? static_cast<char>(c - 'A' + 'a') : c;
            const std::size_t d = digits.find(lower);
            if (d == digits.npos) return false;
            unit = unit * 16 + static_cast<std::uint32_t>(d);
        }
        return true;
    }

    std::string_view text_;
    std::size_t left_;  // of the memory that values may take
    std::size_t at_ = 0;
    Status status_ = Status::ok;
};

}  // namespace

const JsonValue* JsonValue::find(std::string_view key) const noexcept {
    const Object* object = as<Object>();
    if (object == nullptr) return nullptr;
    for (const auto& [name, member] : *object) {
        if (name == key) return &member;
    }
    return nullptr;
}

Result parse_json(std::string_view text, JsonValue& value, std::size_t max_bytes) {
    return Parser(text, max_bytes).parse(value);
}

bool is_utf8(std::string_view text) noexcept {
    for (std::size_t at = 0; at < text.size();) {
        const std::size_t length = utf8_length(text, at);
        if (length == 0) return false;
        at += length;
    }
    return true;
}

void append_json_string(std::string_view text, std::string& out) {
    static constexpr std::array hex = {'0', '1', '2', '3', '4', '5', '6', '7',
                                       '8', '9', 'a', 'b', 'c', 'd', 'e', 'f'};
    out += '"';
    for (const char c : text) {
        if (c == '"' || c == '\\') {
            out += '\\';
            out += c;
        } else if (static_cast<unsigned char>(c) < 0x20) {
            out += "\\u00";
            out += hex[static_cast<unsigned char>(c) >> 4];
            out += hex[c & 15];
        } else {
            out += c;
        }
    }
    out += '"';
}

}  // namespace tersor::container
