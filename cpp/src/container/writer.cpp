// Writing a file: header first, then the tensors without gaps, in one step.
#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <filesystem>
#include <stdexcept>
#include <system_error>
#include <unordered_set>

#include "container/json.hpp"
#include "container/tensor_types.hpp"
#include "tersor/container.hpp"

#if defined(__unix__) || defined(__APPLE__)
#include <fcntl.h>
#include <unistd.h>
#endif

namespace tersor {
namespace {

using container::append_json_string;

bool is_blob(const TensorToWrite& tensor) {
    return tensor.name.ends_with(blob_suffix) && tensor.dtype == "U8" && tensor.shape.size() == 1 &&
           is_layer(tensor.bytes);
}

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
        if (tensor.name == "__metadata__" || !names.insert(tensor.name).second) {
            throw std::invalid_argument("tensor '" + tensor.name + "': the name is taken");
        }
    }
}

void check(const Metadata& metadata) {
    std::unordered_set<std::string_view> keys;
    for (const auto& [key, value] : metadata) {
        check_utf8(key, "the metadata key");
        check_utf8(value, "the metadata value");
        if (key == container::metadata_key) {
            throw std::invalid_argument("the metadata key '" + key + "' is the library's own");
        }
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

/// What the library wants to know of the file: version, features, layers, hashes.
std::string own_metadata(std::span<const TensorToWrite* const> tensors) {
    std::string layers;
    ObjectText hashes;
    for (const TensorToWrite* tensor : tensors) {
        if (is_blob(*tensor)) {
            if (!layers.empty()) layers += ',';
            append_json_string(
                std::string_view(tensor->name).substr(0, tensor->name.size() - blob_suffix.size()),
                layers);
        } else {
            append_json_string(container::hash_text(container::tensor_hash(
                                   tensor->name, tensor->dtype, tensor->shape, tensor->bytes)),
                               hashes.member(tensor->name));
        }
    }
    return "{\"version\":" + std::to_string(container::file_version) +
           ",\"features\":[],\"layers\":[" + layers + "],\"hashes\":" + std::move(hashes).finish() +
           "}";
}

std::string header_text(std::span<const TensorToWrite* const> tensors, const Metadata& metadata) {
    ObjectText entries;
    for (const auto& [key, value] : metadata) append_json_string(value, entries.member(key));
    append_json_string(own_metadata(tensors), entries.member(container::metadata_key));
    ObjectText header;
    header.member("__metadata__") += std::move(entries).finish();
    std::uint64_t offset = 0;
    for (const TensorToWrite* tensor : tensors) {
        std::string& text = header.member(tensor->name);
        text += "{\"dtype\":\"" + tensor->dtype + "\",\"shape\":" + number_list(tensor->shape);
        const std::uint64_t offsets[] = {offset, offset + tensor->bytes.size()};
        text += ",\"data_offsets\":" + number_list(offsets) + "}";
        offset = offsets[1];
    }
    return std::move(header).finish();
}

[[noreturn]] void throw_errno(const std::string& path) {
    throw std::system_error(errno, std::generic_category(), path);
}

/// Pushes what was written to the disk itself, so that a rename never outruns the content.
void sync_to_disk([[maybe_unused]] const std::string& path) {
#if defined(__unix__) || defined(__APPLE__)
    const int descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
    if (descriptor < 0) throw_errno(path);
    const int failed = fsync(descriptor);
    ::close(descriptor);
    if (failed != 0) throw_errno(path);
#endif
}

/// A file beside the target that disappears unless it is renamed over it.
class TemporaryFile {
public:
    explicit TemporaryFile(const std::string& target)
        : target_(target), path_(target + ".tmp" + std::to_string(process_id())) {
        stream_ = std::fopen(path_.c_str(), "wbx");
        if (stream_ == nullptr) throw_errno(path_);
    }
    TemporaryFile(const TemporaryFile&) = delete;
    TemporaryFile& operator=(const TemporaryFile&) = delete;
    ~TemporaryFile() {
        if (stream_ != nullptr) std::fclose(stream_);
        if (!path_.empty()) std::remove(path_.c_str());
    }

    void write(const void* bytes, std::size_t size) {
        if (size != 0 && std::fwrite(bytes, 1, size, stream_) != size) throw_errno(path_);
    }

    void commit() {
        const bool closed = std::fclose(stream_) == 0;
        stream_ = nullptr;
        if (!closed) throw_errno(path_);
        sync_to_disk(path_);
        std::filesystem::rename(path_, target_);
        path_.clear();
        const std::filesystem::path folder = std::filesystem::path(target_).parent_path();
        sync_to_disk(folder.empty() ? "." : folder.string());
    }

private:
    static long process_id() noexcept {
#if defined(__unix__) || defined(__APPLE__)
        return getpid();
#else
        return 0;
#endif
    }

    std::string target_;
    std::string path_;
    std::FILE* stream_ = nullptr;
};

}  // namespace

void write_file(const std::string& path, std::span<const TensorToWrite> tensors,
                const Metadata& metadata) {
    check(tensors);
    check(metadata);
    // Wide elements first, as the stock writer does, so that everything is aligned to its element.
    std::vector<const TensorToWrite*> ordered;
    for (const TensorToWrite& tensor : tensors) ordered.push_back(&tensor);
    std::sort(ordered.begin(), ordered.end(), [](const TensorToWrite* a, const TensorToWrite* b) {
        const auto width_a = container::element_bytes(a->dtype);
        const auto width_b = container::element_bytes(b->dtype);
        return width_a != width_b ? width_a > width_b : a->name < b->name;
    });
    std::string header = header_text(ordered, metadata);
    header.append((8 - header.size() % 8) % 8, ' ');
    if (header.size() > container::max_header_bytes) {
        throw std::invalid_argument("the header takes " + std::to_string(header.size()) +
                                    " bytes, and a reader accepts no more than " +
                                    std::to_string(container::max_header_bytes));
    }
    std::vector<std::uint8_t> length;
    support::append_little_endian(std::uint64_t{header.size()}, length);

    TemporaryFile file(path);
    file.write(length.data(), length.size());
    file.write(header.data(), header.size());
    for (const TensorToWrite* tensor : ordered) {
        file.write(tensor->bytes.data(), tensor->bytes.size());
    }
    file.commit();
}

}  // namespace tersor
