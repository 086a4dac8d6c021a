// Writing a file: the header, the index with the small tensors, the others; in one step.
#include <algorithm>
#include <stdexcept>
#include <unordered_set>

#include "container/index.hpp"
#include "container/json.hpp"
#include "container/replace_file.hpp"
#include "container/tensor_types.hpp"
#include "hash/xxh3.hpp"
#include "support/little_endian.hpp"
#include "tersor/container.hpp"
#include "tersor/isa.hpp"

namespace tersor {
namespace {

using container::append_json_string;

void check_utf8(const std::string& text, const char* what) {
    if (!container::is_utf8(text)) {
        throw std::invalid_argument(std::string(what) + " '" + text + "' is not UTF-8");
    }
}

void check(std::span<const TensorToWrite> tensors) {
    std::unordered_set<std::string_view> names;
    for (const TensorToWrite& tensor : tensors) {
        check_utf8(tensor.name, "the tensor name");
        const std::uint64_t element = container::element_bytes(tensor.dtype);
        std::uint64_t bytes = 0;
        if (element == 0) {
            throw std::invalid_argument("tensor '" + tensor.name + "': unknown dtype " +
                                        tensor.dtype);
        }
        if (!container::tensor_bytes(tensor.shape, element, bytes) ||
            bytes != tensor.bytes.size()) {
            throw std::invalid_argument("tensor '" + tensor.name +
                                        "': the shape does not fit the number of bytes");
        }
        if (tensor.name == "__metadata__" || tensor.name == container::index_name ||
            !names.insert(tensor.name).second) {
            throw std::invalid_argument("tensor '" + tensor.name + "': the name is taken");
        }
    }
}

void check(const Metadata& metadata) {
    std::unordered_set<std::string_view> keys;
    for (const auto& [key, value] : metadata) {
        check_utf8(key, "the metadata key");
        check_utf8(value, "the metadata value");
        if (!keys.insert(key).second) {
            throw std::invalid_argument("the metadata key '" + key + "' occurs twice");
        }
    }
}

/// `key: value` members, comma-separated.
class ObjectText {
public:
    /// Starts a member; the caller appends its value to the text returned.
    std::string& member(std::string_view key) {
        if (text_.size() > 1) text_ += ',';
        append_json_string(key, text_);
        text_ += ':';
        return text_;
    }
    [[nodiscard]] std::string finish() && { return std::move(text_ += '}'); }

private:
    std::string text_ = "{";
};

std::string number_list(std::span<const std::uint64_t> numbers) {
    std::string text = "[";
    for (const std::uint64_t n : numbers) {
        if (text.size() > 1) text += ',';
        text += std::to_string(n);
    }
    return text + ']';
}

/// A tensor's entry of the header.
void append_entry(std::string_view name, std::string_view dtype,
                  std::span<const std::uint64_t> shape, std::uint64_t offset, std::uint64_t bytes,
                  ObjectText& header) {
    const std::uint64_t offsets[] = {offset, offset + bytes};
    std::string& text = header.member(name);
    text += "{\"dtype\":\"";
    text += dtype;
    text += "\",\"shape\":" + number_list(shape);
    text += ",\"data_offsets\":" + number_list(offsets) + "}";
}

/// The file up to its first tensor: length, JSON, padding. `index_bytes` is 0 where there is none.
std::vector<std::uint8_t> make_header(std::uint64_t index_bytes,
                                      std::span<const TensorToWrite* const> outside,
                                      const Metadata& metadata) {
    ObjectText entries;
    if (!metadata.empty()) {
        ObjectText values;
        for (const auto& [key, value] : metadata) append_json_string(value, values.member(key));
        entries.member("__metadata__") += std::move(values).finish();
    }
    if (index_bytes != 0) {
        append_entry(container::index_name, "U8", {&index_bytes, 1}, 0, index_bytes, entries);
    }
    std::uint64_t offset = index_bytes;
    for (const TensorToWrite* tensor : outside) {
        append_entry(tensor->name, tensor->dtype, tensor->shape, offset, tensor->bytes.size(),
                     entries);
        offset += tensor->bytes.size();
    }
    std::string text = std::move(entries).finish();
    text.append((8 - text.size() % 8) % 8, ' ');
    if (text.size() > container::max_header_bytes) {
        throw std::invalid_argument("the header takes " + std::to_string(text.size()) +
                                    " bytes, and a reader accepts no more than " +
                                    std::to_string(container::max_header_bytes));
    }
    std::vector<std::uint8_t> header;
    support::append_little_endian(std::uint64_t{text.size()}, header);
    header.insert(header.end(), text.begin(), text.end());
    return header;
}

/// The index over these tensors, not sealed.
std::vector<std::uint8_t> make_index(std::span<const TensorToWrite* const> members,
                                     std::span<const TensorToWrite* const> outside) {
    std::vector<std::uint64_t> hashes;
    for (const TensorToWrite* tensor : outside) hashes.push_back(hash::xxh3_64(tensor->bytes));
    const std::size_t alignment =
        outside.empty() ? 1 : container::element_bytes(outside.front()->dtype);
    return container::encode_index(members, hashes, alignment);
}

}  // namespace

void write_file(const std::string& path, std::span<const TensorToWrite> tensors,
                const Metadata& metadata, FileKind kind) {
    static_cast<void>(isa_in_use());  // a wrong level is told here: hashing does not throw
    check(tensors);
    check(metadata);
    // Wide elements first, as the stock writer does, so that everything is aligned to its element.
    std::vector<const TensorToWrite*> members;
    std::vector<const TensorToWrite*> outside;
    for (const TensorToWrite& tensor : tensors) {
        const bool small = tensor.bytes.size() < container::outside_bytes;
        (small && kind == FileKind::indexed ? members : outside).push_back(&tensor);
    }
    for (auto* list : {&members, &outside}) {
        std::ranges::sort(*list, [](const TensorToWrite* a, const TensorToWrite* b) {
            const auto width_a = container::element_bytes(a->dtype);
            const auto width_b = container::element_bytes(b->dtype);
            return width_a != width_b ? width_a > width_b : a->name < b->name;
        });
    }
    std::vector<std::uint8_t> index;
    if (kind == FileKind::indexed) index = make_index(members, outside);
    const std::vector<std::uint8_t> header = make_header(index.size(), outside, metadata);
    if (!index.empty()) container::seal_index(index, header);

    container::FileReplacement file(path);
    file.write(header);
    file.write(index);
    for (const TensorToWrite* tensor : outside) file.write(tensor->bytes);
    file.commit();
}

}  // namespace tersor
