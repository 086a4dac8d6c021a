// Writing a file: the header, the index with the small tensors, the others; in one step.
#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <filesystem>
#include <stdexcept>
#include <system_error>
#include <unordered_set>

#include "container/index.hpp"
#include "container/json.hpp"
#include "container/tensor_types.hpp"
#include "hash/xxh3.hpp"
#include "support/little_endian.hpp"
#include "tersor/container.hpp"
#include "tersor/isa.hpp"

#if defined(__unix__) || defined(__APPLE__)
#define TERSOR_POSIX 1
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>
#else
#define TERSOR_POSIX 0
#endif

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

[[noreturn]] void throw_errno(const std::string& path) {
    throw std::system_error(errno, std::generic_category(), path);
}

#if TERSOR_POSIX

/// Waits until no other process has the file's lock; systems without locks grant it.
void lock(int descriptor) noexcept {
    while (flock(descriptor, LOCK_EX) != 0 && errno == EINTR) {
    }
}

/// Whether the path still names the open file.
bool names(const std::string& path, int descriptor) noexcept {
    struct stat opened{}, named{};
    return fstat(descriptor, &opened) == 0 && lstat(path.c_str(), &named) == 0 &&
           opened.st_dev == named.st_dev && opened.st_ino == named.st_ino;
}

/// Makes a file of this name and locks it. One that is there is somebody's who writes, and is
/// waited for, or of a process that was killed, and removed: a lock ends with its process.
std::FILE* make_locked(const std::string& path) {
    for (;;) {
        int descriptor = ::open(path.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
        if (descriptor >= 0) {
            lock(descriptor);
            if (names(path, descriptor)) return fdopen(descriptor, "wb");
        } else {
            if (errno != EEXIST) throw_errno(path);
            descriptor = ::open(path.c_str(), O_RDWR | O_CLOEXEC | O_NOFOLLOW);
            if (descriptor < 0 && errno == ENOENT) continue;
            if (descriptor < 0) throw_errno(path);
            lock(descriptor);
            if (names(path, descriptor)) unlink(path.c_str());
        }
        ::close(descriptor);
    }
}

/// Pushes what was written to the disk itself, so that a rename never outruns the content.
void sync_to_disk(int descriptor, const std::string& path) {
    if (descriptor < 0 || fsync(descriptor) != 0) throw_errno(path);
}

void sync_folder_of(const std::string& path) {
    const std::filesystem::path parent = std::filesystem::path(path).parent_path();
    const std::string folder = parent.empty() ? "." : parent.string();
    const int descriptor = ::open(folder.c_str(), O_RDONLY | O_CLOEXEC);
    sync_to_disk(descriptor, folder);
    ::close(descriptor);
}

#else

std::FILE* make_locked(const std::string& path) { return std::fopen(path.c_str(), "wb"); }

#endif

/// A file beside the target that disappears unless it is renamed over it. Its name is the target's
/// and `.tmp`, so that what a killed process left is found by the next that writes.
class TemporaryFile {
public:
    explicit TemporaryFile(const std::string& target)
        : target_(target), path_(target + ".tmp"), stream_(make_locked(path_)) {
        if (stream_ == nullptr) throw_errno(path_);
    }
    TemporaryFile(const TemporaryFile&) = delete;
    TemporaryFile& operator=(const TemporaryFile&) = delete;
    ~TemporaryFile() {
        // The name goes before the lock does.
        if (!path_.empty()) std::remove(path_.c_str());
        if (stream_ != nullptr) std::fclose(stream_);
    }

    void write(const void* bytes, std::size_t size) {
        if (size != 0 && std::fwrite(bytes, 1, size, stream_) != size) throw_errno(path_);
    }

    void commit() {
        if (std::fflush(stream_) != 0) throw_errno(path_);
#if TERSOR_POSIX
        sync_to_disk(fileno(stream_), path_);
        std::filesystem::rename(path_, target_);
        path_.clear();
        sync_folder_of(target_);
#else
        std::fclose(std::exchange(stream_, nullptr));
        std::filesystem::rename(path_, target_);
        path_.clear();
#endif
    }

private:
    std::string target_;
    std::string path_;
    std::FILE* stream_ = nullptr;
};

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

    TemporaryFile file(path);
    file.write(header.data(), header.size());
    file.write(index.data(), index.size());
    for (const TensorToWrite* tensor : outside) {
        file.write(tensor->bytes.data(), tensor->bytes.size());
    }
    file.commit();
}

}  // namespace tersor
