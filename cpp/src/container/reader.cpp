// Opening a file: everything in the header is checked before anything is believed.
#include <algorithm>
#include <iterator>
#include <numeric>
#include <optional>
#include <stdexcept>
#include <tuple>

#include "container/index.hpp"
#include "container/json.hpp"
#include "container/mapped_file.hpp"
#include "container/tensor_types.hpp"
#include "hash/xxh3.hpp"
#include "support/little_endian.hpp"
#include "support/shares.hpp"
#include "tersor/container.hpp"
#include "tersor/isa.hpp"
#include "tersor/lossless.hpp"

namespace tersor {
namespace {

using container::JsonValue;

constexpr std::size_t length_bytes = 8;

/// What the values of the header may take for each of its bytes, and besides: the shortest metadata
/// that can be takes 22.
constexpr std::size_t header_expansion = 24;
constexpr std::size_t header_believed = 4096;

/// What went wrong at a value of the header; positions count from the start of the file.
Result fault(Status status, const JsonValue& value) noexcept {
    return {status, length_bytes + value.position};
}

bool read_numbers(const JsonValue& value, std::vector<std::uint64_t>& numbers) {
    if (const auto* listed = value.as<JsonValue::Numbers>()) {
        numbers = *listed;
        return true;
    }
    const auto* empty = value.as<JsonValue::Array>();
    return empty != nullptr && empty->empty();
}

/// One tensor's entry of the header; its bytes are `data` [begin, end).
Result read_tensor(const std::string& name, const JsonValue& entry,
                   std::span<const std::uint8_t> data, TensorView& tensor) {
    const auto* object = entry.as<JsonValue::Object>();
    const JsonValue* dtype = entry.find("dtype");
    const JsonValue* shape = entry.find("shape");
    const JsonValue* range = entry.find("data_offsets");
    if (object == nullptr || object->size() != 3 || dtype == nullptr || shape == nullptr ||
        range == nullptr) {
        return fault(Status::bad_json, entry);
    }
    const auto* dtype_name = dtype->as<std::string>();
    if (dtype_name == nullptr) return fault(Status::bad_json, *dtype);
    std::vector<std::uint64_t> offsets;
    if (!read_numbers(*shape, tensor.shape)) return fault(Status::bad_json, *shape);
    if (!read_numbers(*range, offsets) || offsets.size() != 2) {
        return fault(Status::bad_json, *range);
    }
    tensor.name = name;
    tensor.dtype = *dtype_name;
    const std::uint64_t element = container::element_bytes(tensor.dtype);
    if (element == 0) return fault(Status::bad_header, *dtype);
    std::uint64_t size = 0;
    if (!container::tensor_bytes(tensor.shape, element, size)) {
        return fault(Status::too_large, *shape);
    }
    if (offsets[0] > offsets[1] || offsets[1] - offsets[0] != size) {
        return fault(Status::size_mismatch, *range);
    }
    if (offsets[1] > data.size()) return fault(Status::truncated, *range);
    tensor.bytes =
        data.subspan(static_cast<std::size_t>(offsets[0]), static_cast<std::size_t>(size));
    tensor.offset = static_cast<std::size_t>(offsets[0]);
    return {};
}

/// The numbers of tensors in the order of `key(i)`: what moves while they are sorted is a number
/// and not a tensor.
template <class Key>
std::vector<std::size_t> sorted_by(const Key& key, std::size_t count) {
    std::vector<std::size_t> order(count);
    std::iota(order.begin(), order.end(), std::size_t{0});
    std::ranges::sort(order, {}, key);
    return order;
}

template <class T>
void permute(std::vector<T>& elements, std::span<const std::size_t> order) {
    std::vector<T> sorted;
    sorted.reserve(order.size());
    for (const std::size_t i : order) sorted.push_back(std::move(elements[i]));
    elements = std::move(sorted);
}

/// Sorts tensors by their place; they must follow each other from 0 to `data_bytes` without holes.
Result check_places(std::vector<TensorView>& tensors, std::size_t data_bytes) {
    const auto place = [&](std::size_t i) {
        const TensorView& tensor = tensors[i];
        return std::tuple(tensor.offset + tensor.bytes.size(), tensor.offset, i);
    };
    permute(tensors, sorted_by(place, tensors.size()));
    std::size_t covered = 0;
    for (const TensorView& tensor : tensors) {
        if (tensor.offset != covered) return {Status::overlapping_tensors, tensor.offset};
        covered += tensor.bytes.size();
    }
    return {covered == data_bytes ? Status::ok : Status::trailing_bytes, covered};
}

}  // namespace

struct File::Content {
    container::MappedFile file;
    std::span<const std::uint8_t> bytes;
    std::vector<TensorView> tensors;  // by name
    Metadata metadata;
    std::vector<std::optional<std::uint64_t>> hashes;  // of each; none of one inside the index
    std::vector<std::uint8_t> decoded;                 // tensors that the index has coded
    bool is_tersor = false;

    [[nodiscard]] Result parse(std::size_t max_bytes);
    [[nodiscard]] Result read_metadata(const JsonValue& entry);
    [[nodiscard]] Result open_index(std::size_t data_begin, std::size_t max_bytes);
    [[nodiscard]] Result sort_by_name();
    /// Its place in `tensors`, or their number.
    [[nodiscard]] std::size_t find(std::string_view name) const noexcept;
};

Result File::Content::read_metadata(const JsonValue& entry) {
    const auto* object = entry.as<JsonValue::Object>();
    if (object == nullptr) return fault(Status::bad_json, entry);
    for (const auto& [key, value] : *object) {
        const auto* text = value.as<std::string>();
        if (text == nullptr) return fault(Status::bad_json, value);
        metadata.emplace_back(key, *text);
    }
    return {};
}

/// Where there is an index, puts its members among the tensors, which stand in the order of
/// the file, and keeps the hashes of the others.
Result File::Content::open_index(std::size_t data_begin, std::size_t max_bytes) {
    const auto named =
        std::ranges::find(tensors, container::index_name, [](const auto& t) { return t.name; });
    const bool has_index = container::starts_like_index(bytes.subspan(data_begin));
    // A file of this library whose header was damaged does not pass for one of another writer.
    if ((named != tensors.end()) != has_index) return {Status::bad_magic, data_begin};
    if (!has_index) return {};
    if (named->offset != data_begin || named->dtype != "U8" || named->shape.size() != 1) {
        return {Status::bad_header, data_begin};
    }
    is_tersor = true;
    container::Index parsed;
    const std::span<const std::uint8_t> index_bytes = named->bytes;
    Result result = container::parse_index(index_bytes, tensors.size() - 1, parsed, max_bytes);
    result.count += data_begin;
    if (!result.ok()) return result;
    if (parsed.header_hash != hash::xxh3_64(bytes.first(data_begin))) {
        return {Status::hash_mismatch, 0};
    }
    tensors.erase(named);
    hashes.assign(parsed.hashes.begin(), parsed.hashes.end());
    decoded = std::move(parsed.decoded);  // and the members with it: what they view stays in place
    for (TensorView& member : parsed.members) member.offset += data_begin;
    std::ranges::move(parsed.members, std::back_inserter(tensors));
    return {};
}

Result File::Content::parse(std::size_t max_bytes) {
    if (bytes.size() < length_bytes) return {Status::truncated, bytes.size()};
    const auto header_bytes = support::load_little_endian<std::uint64_t>(bytes.data());
    if (header_bytes > container::max_header_bytes) return {Status::too_large, 0};
    if (header_bytes > bytes.size() - length_bytes) return {Status::truncated, bytes.size()};
    const auto header = bytes.subspan(length_bytes, static_cast<std::size_t>(header_bytes));
    const std::size_t data_begin = length_bytes + header.size();
    const auto data = bytes.subspan(data_begin);
    if (header.empty() || header[0] != '{') return {Status::bad_magic, length_bytes};

    JsonValue root;
    const std::size_t believed = header_expansion * header.size() + header_believed;
    Result result =
        container::parse_json({reinterpret_cast<const char*>(header.data()), header.size()}, root,
                              std::min(max_bytes, believed));
    result.count += length_bytes;
    if (!result.ok()) return result;
    for (const auto& [name, entry] : *root.as<JsonValue::Object>()) {
        result = name == "__metadata__" ? read_metadata(entry)
                                        : read_tensor(name, entry, data, tensors.emplace_back());
        if (!result.ok()) return result;
    }
    result = check_places(tensors, data.size());
    result.count += data_begin;
    if (!result.ok()) return result;
    for (TensorView& tensor : tensors) {
        tensor.offset += data_begin;
        tensor.compressed =
            container::is_blob(tensor.name, tensor.dtype, tensor.shape, tensor.bytes);
    }
    result = open_index(data_begin, max_bytes);
    if (!result.ok()) return result;
    for (TensorView& tensor : tensors) {
        tensor.lossless = tensor.compressed && lossless::is_blob(tensor.bytes);
    }
    return sort_by_name();
}

Result File::Content::sort_by_name() {
    const auto order =
        sorted_by([&](std::size_t i) { return std::tuple(std::string_view(tensors[i].name), i); },
                  tensors.size());
    hashes.resize(tensors.size());
    permute(tensors, order);
    permute(hashes, order);
    const auto twice = std::ranges::adjacent_find(tensors, {}, &TensorView::name);
    if (twice != tensors.end()) return {Status::duplicate_name, std::next(twice)->offset};
    return {Status::ok, bytes.size()};
}

std::size_t File::Content::find(std::string_view name) const noexcept {
    const auto place = std::ranges::lower_bound(tensors, name, {}, &TensorView::name);
    const bool found = place != tensors.end() && place->name == name;
    return static_cast<std::size_t>((found ? place : tensors.end()) - tensors.begin());
}

File::File() noexcept = default;
File::File(File&&) noexcept = default;
File& File::operator=(File&&) noexcept = default;
File::~File() = default;

Result File::open(const std::string& path, File& file, std::size_t max_bytes) {
    static_cast<void>(isa_in_use());  // a wrong level is told here: hashing does not throw
    auto content = std::make_unique<Content>();
    if (!content->file.open(path)) return {Status::io_error, 0};
    content->bytes = content->file.bytes();
    const Result result = content->parse(max_bytes);
    if (result.ok()) file.content_ = std::move(content);
    return result;
}

Result File::parse(std::span<const std::uint8_t> bytes, File& file, std::size_t max_bytes) {
    static_cast<void>(isa_in_use());
    auto content = std::make_unique<Content>();
    content->bytes = bytes;
    const Result result = content->parse(max_bytes);
    if (result.ok()) file.content_ = std::move(content);
    return result;
}

const File::Content& File::content() const noexcept {
    static const Content none{};
    return content_ != nullptr ? *content_ : none;
}

const std::vector<TensorView>& File::tensors() const& noexcept { return content().tensors; }

const TensorView* File::find(std::string_view name) const& noexcept {
    const std::size_t place = content().find(name);
    return place < content().tensors.size() ? &content().tensors[place] : nullptr;
}

const Metadata& File::metadata() const& noexcept { return content().metadata; }

std::size_t File::file_bytes() const noexcept { return content().bytes.size(); }

bool File::is_tersor() const noexcept { return content().is_tersor; }

Result File::verify(const TensorView& tensor) const {
    const std::size_t place = content().find(tensor.name);
    if (place == content().tensors.size() ||
        content().tensors[place].bytes.data() != tensor.bytes.data() ||
        content().tensors[place].bytes.size() != tensor.bytes.size()) {
        throw std::invalid_argument("verify: the tensor '" + tensor.name + "' is not of this file");
    }
    const Result good{Status::ok, tensor.offset};
    if (is_tersor()) {
        // What stands inside the index was verified with it.
        if (!content().hashes[place].has_value()) return good;
        const bool same = content().hashes[place] == hash::xxh3_64(tensor.bytes);
        return same ? good : Result{Status::hash_mismatch, tensor.offset};
    }
    // A file of another writer has no hashes but those that its blobs end with.
    if (!tensor.compressed) return good;
    LayerInfo info;
    Result result =
        tensor.lossless ? lossless::verify(tensor.bytes) : inspect_layer(tensor.bytes, info, true);
    if (!result.ok()) result.count += tensor.offset;
    return result;
}

void File::release(const TensorView& tensor) const noexcept {
    content().file.release(tensor.bytes);
}

Result File::verify(int threads) const {
    const std::vector<TensorView>& tensors = content().tensors;
    std::vector<std::uint64_t> sizes(tensors.size());
    for (std::size_t i = 0; i < tensors.size(); ++i) sizes[i] = tensors[i].bytes.size();
    std::vector<Result> results(tensors.size());
    support::for_each_task(sizes, threads, [&](std::size_t i) { results[i] = verify(tensors[i]); });
    const auto fault = std::ranges::find_if(results, [](const Result& r) { return !r.ok(); });
    return fault != results.end() ? *fault : Result{Status::ok, file_bytes()};
}

}  // namespace tersor
