// Opening a file: everything in the header is checked before anything is believed.
#include <algorithm>
#include <fstream>
#include <limits>
#include <unordered_map>

#include "container/json.hpp"
#include "container/tensor_types.hpp"
#include "tersor/container.hpp"

#if defined(__unix__) || defined(__APPLE__)
#define TERSOR_MMAP 1
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#else
#define TERSOR_MMAP 0
#endif

namespace tersor {
namespace {

using container::JsonValue;

constexpr std::size_t length_bytes = 8;

/// The bytes of a file, mapped or read.
class FileBytes {
public:
    FileBytes() = default;
    FileBytes(const FileBytes&) = delete;
    FileBytes& operator=(const FileBytes&) = delete;
    ~FileBytes() {
#if TERSOR_MMAP
        if (mapping_ != nullptr) munmap(mapping_, size_);
#endif
    }

    [[nodiscard]] bool open(const std::string& path) {
#if TERSOR_MMAP
        const int descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
        if (descriptor < 0) return false;
        struct stat status{};
        const bool regular = fstat(descriptor, &status) == 0 && S_ISREG(status.st_mode);
        if (regular && status.st_size > 0) {
            size_ = static_cast<std::size_t>(status.st_size);
            void* mapping = mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, descriptor, 0);
            if (mapping != MAP_FAILED) mapping_ = mapping;
        }
        ::close(descriptor);
        return regular && (status.st_size == 0 || mapping_ != nullptr);
#else
        std::ifstream stream(path, std::ios::binary | std::ios::ate);
        if (!stream) return false;
        content_.resize(static_cast<std::size_t>(stream.tellg()));
        stream.seekg(0);
        stream.read(reinterpret_cast<char*>(content_.data()),
                    static_cast<std::streamsize>(content_.size()));
        return static_cast<bool>(stream);
#endif
    }

    [[nodiscard]] std::span<const std::uint8_t> bytes() const noexcept {
#if TERSOR_MMAP
        return {static_cast<const std::uint8_t*>(mapping_), mapping_ != nullptr ? size_ : 0};
#else
        return content_;
#endif
    }

private:
#if TERSOR_MMAP
    void* mapping_ = nullptr;
    std::size_t size_ = 0;
#else
    std::vector<std::uint8_t> content_;
#endif
};

bool read_numbers(const JsonValue* value, std::vector<std::uint64_t>& numbers) {
    const auto* array = value != nullptr ? value->as<JsonValue::Array>() : nullptr;
    if (array == nullptr) return false;
    for (const JsonValue& element : *array) {
        const auto* number = element.as<std::uint64_t>();
        if (number == nullptr) return false;
        numbers.push_back(*number);
    }
    return true;
}

/// One tensor's entry of the header; its bytes are `data` [begin, end).
Status read_tensor(const std::string& name, const JsonValue& entry,
                   std::span<const std::uint8_t> data, TensorView& tensor) {
    const auto* object = entry.as<JsonValue::Object>();
    const JsonValue* dtype = entry.find("dtype");
    const std::string* dtype_name = dtype != nullptr ? dtype->as<std::string>() : nullptr;
    std::vector<std::uint64_t> offsets;
    if (object == nullptr || object->size() != 3 || dtype_name == nullptr ||
        !read_numbers(entry.find("shape"), tensor.shape) ||
        !read_numbers(entry.find("data_offsets"), offsets) || offsets.size() != 2) {
        return Status::bad_json;
    }
    tensor.name = name;
    tensor.dtype = *dtype_name;
    const std::uint64_t element = container::element_bytes(tensor.dtype);
    if (element == 0) return Status::bad_header;
    std::uint64_t size = 0;
    if (!container::tensor_bytes(tensor.shape, element, size)) return Status::too_large;
    if (offsets[0] > offsets[1] || offsets[1] - offsets[0] != size) return Status::size_mismatch;
    if (offsets[1] > data.size()) return Status::truncated;
    tensor.bytes =
        data.subspan(static_cast<std::size_t>(offsets[0]), static_cast<std::size_t>(size));
    tensor.offset = static_cast<std::size_t>(offsets[0]);
    return Status::ok;
}

}  // namespace

struct File::Content {
    FileBytes file;
    std::span<const std::uint8_t> bytes;
    std::vector<TensorView> tensors;
    Metadata metadata;
    std::unordered_map<std::string_view, std::size_t> index;  // of each name in `tensors`
    std::unordered_map<std::string, std::string> hashes;      // of the ordinary tensors
    bool is_tersor = false;

    [[nodiscard]] Result parse();
    [[nodiscard]] Status read_metadata(const JsonValue& entry, std::vector<std::string>& layers);
    [[nodiscard]] Status mark_layers(const std::vector<std::string>& layers);
    [[nodiscard]] bool hashes_match_tensors() const;
};

Status File::Content::read_metadata(const JsonValue& entry, std::vector<std::string>& layers) {
    const auto* object = entry.as<JsonValue::Object>();
    if (object == nullptr) return Status::bad_json;
    for (const auto& [key, value] : *object) {
        const auto* text = value.as<std::string>();
        if (text == nullptr) return Status::bad_json;
        metadata.emplace_back(key, *text);
        if (key != container::metadata_key) continue;
        is_tersor = true;
        JsonValue own;
        if (!container::parse_json(*text, own).ok()) return Status::bad_json;
        const JsonValue* version = own.find("version");
        const JsonValue* features = own.find("features");
        const JsonValue* names = own.find("layers");
        const JsonValue* sums = own.find("hashes");
        if (version == nullptr || version->as<std::uint64_t>() == nullptr || features == nullptr ||
            features->as<JsonValue::Array>() == nullptr || names == nullptr ||
            names->as<JsonValue::Array>() == nullptr || sums == nullptr ||
            sums->as<JsonValue::Object>() == nullptr) {
            return Status::bad_header;
        }
        if (*version->as<std::uint64_t>() > container::file_version) {
            return Status::unsupported_version;
        }
        // Version 0 defines no features: any that a file requires is unknown here.
        if (!features->as<JsonValue::Array>()->empty()) return Status::unsupported_version;
        for (const JsonValue& name : *names->as<JsonValue::Array>()) {
            if (name.as<std::string>() == nullptr) return Status::bad_header;
            layers.push_back(*name.as<std::string>());
        }
        for (const auto& [name, hash] : *sums->as<JsonValue::Object>()) {
            if (hash.as<std::string>() == nullptr) return Status::bad_header;
            hashes.emplace(name, *hash.as<std::string>());
        }
    }
    return Status::ok;
}

Status File::Content::mark_layers(const std::vector<std::string>& layers) {
    for (const std::string& layer : layers) {
        const auto found = index.find(layer + std::string(blob_suffix));
        if (found == index.end()) return Status::bad_header;
        TensorView& tensor = tensors[found->second];
        if (tensor.compressed || tensor.dtype != "U8" || tensor.shape.size() != 1 ||
            !is_layer(tensor.bytes)) {
            return Status::bad_header;
        }
        tensor.compressed = true;
    }
    return !is_tersor || hashes_match_tensors() ? Status::ok : Status::bad_header;
}

/// Whether the ordinary tensors, and no others, have a hash; what it is, `verify` finds out.
bool File::Content::hashes_match_tensors() const {
    std::size_t plain = 0;
    for (const TensorView& tensor : tensors) {
        if (tensor.compressed) continue;
        if (!hashes.contains(tensor.name)) return false;
        ++plain;
    }
    return plain == hashes.size();
}

Result File::Content::parse() {
    if (bytes.size() < length_bytes) return {Status::truncated, bytes.size()};
    const auto header_bytes = support::load_little_endian<std::uint64_t>(bytes.data());
    if (header_bytes > container::max_header_bytes) return {Status::too_large, 0};
    if (header_bytes > bytes.size() - length_bytes) return {Status::truncated, bytes.size()};
    const auto header = bytes.subspan(length_bytes, static_cast<std::size_t>(header_bytes));
    const std::size_t data_begin = length_bytes + header.size();
    const auto data = bytes.subspan(data_begin);
    if (header.empty() || header[0] != '{') return {Status::bad_magic, length_bytes};

    JsonValue root;
    Result parsed =
        container::parse_json({reinterpret_cast<const char*>(header.data()), header.size()}, root);
    parsed.count += length_bytes;
    if (!parsed.ok()) return parsed;
    std::vector<std::string> layers;
    for (const auto& [name, entry] : *root.as<JsonValue::Object>()) {
        const Status status = name == "__metadata__"
                                  ? read_metadata(entry, layers)
                                  : read_tensor(name, entry, data, tensors.emplace_back());
        if (status != Status::ok) return {status, length_bytes};
    }
    std::stable_sort(tensors.begin(), tensors.end(), [](const TensorView& a, const TensorView& b) {
        return a.offset + a.bytes.size() < b.offset + b.bytes.size() ||
               (a.offset + a.bytes.size() == b.offset + b.bytes.size() && a.offset < b.offset);
    });
    std::size_t covered = 0;
    for (TensorView& tensor : tensors) {
        if (tensor.offset != covered) {
            return {Status::overlapping_tensors, data_begin + tensor.offset};
        }
        covered += tensor.bytes.size();
        tensor.offset += data_begin;
    }
    if (covered != data.size()) return {Status::trailing_bytes, data_begin + covered};
    // The names have come to rest: from here on the index may refer to them.
    for (std::size_t i = 0; i < tensors.size(); ++i) index.emplace(tensors[i].name, i);
    if (const Status s = mark_layers(layers); s != Status::ok) return {s, length_bytes};
    return {Status::ok, bytes.size()};
}

File::File() noexcept = default;
File::File(File&&) noexcept = default;
File& File::operator=(File&&) noexcept = default;
File::~File() = default;

Result File::open(const std::string& path, File& file) {
    auto content = std::make_unique<Content>();
    if (!content->file.open(path)) return {Status::io_error, 0};
    content->bytes = content->file.bytes();
    const Result result = content->parse();
    if (result.ok()) file.content_ = std::move(content);
    return result;
}

Result File::parse(std::span<const std::uint8_t> bytes, File& file) {
    auto content = std::make_unique<Content>();
    content->bytes = bytes;
    const Result result = content->parse();
    if (result.ok()) file.content_ = std::move(content);
    return result;
}

const std::vector<TensorView>& File::tensors() const noexcept { return content_->tensors; }

const TensorView* File::find(std::string_view name) const noexcept {
    const auto found = content_->index.find(name);
    return found != content_->index.end() ? &content_->tensors[found->second] : nullptr;
}

const Metadata& File::metadata() const noexcept { return content_->metadata; }

std::size_t File::file_bytes() const noexcept { return content_->bytes.size(); }

bool File::is_tersor() const noexcept { return content_->is_tersor; }

Result File::verify(const TensorView& tensor) const {
    if (tensor.compressed) {
        LayerInfo info;
        Result result = inspect_layer(tensor.bytes, info, true);
        if (!result.ok()) result.count += tensor.offset;
        return result;
    }
    // A file of another writer has no hashes to hold against its tensors.
    if (!content_->is_tersor) return {Status::ok, tensor.offset};
    const std::string hash = container::hash_text(
        container::tensor_hash(tensor.name, tensor.dtype, tensor.shape, tensor.bytes));
    const auto stored = content_->hashes.find(tensor.name);
    const bool same = stored != content_->hashes.end() && stored->second == hash;
    return {same ? Status::ok : Status::hash_mismatch, tensor.offset};
}

Result File::verify() const {
    for (const TensorView& tensor : content_->tensors) {
        if (const Result r = verify(tensor); !r.ok()) return r;
    }
    return {Status::ok, file_bytes()};
}

}  // namespace tersor
