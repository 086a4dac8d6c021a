// The file: a valid .safetensors file in which compressed tensors are uint8 blobs, and what is
// small stands together in one tensor.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "tersor/layer.hpp"
#include "tersor/status.hpp"

namespace tersor {

/// The blob of tensor "fc.weight" is stored under "fc.weight_blob".
inline constexpr std::string_view blob_suffix = "_blob";

/// A tensor to write; the bytes are the caller's.
struct TensorToWrite {
    std::string name;
    std::string dtype;  // as safetensors names it: "F32", "U8", ...
    std::vector<std::uint64_t> shape;
    std::span<const std::uint8_t> bytes;  // little-endian, row-major
};

/// A tensor in an open file; the bytes live as long as the `File`.
struct TensorView {
    std::string name;
    std::string dtype;
    std::vector<std::uint64_t> shape;
    std::span<const std::uint8_t> bytes;
    std::size_t offset = 0;   // of the first byte in the file
    bool compressed = false;  // a blob by name and start: see decode_layer, or if
    bool lossless = false;    // this is set as well, lossless::decode
};

using Metadata = std::vector<std::pair<std::string, std::string>>;

/// An open file, mapped where the system can; listing it decodes nothing.
class File {
public:
    /// Not open: without tensors, as a file is that was moved from.
    File() noexcept;
    File(File&&) noexcept;
    File& operator=(File&&) noexcept;
    ~File();

    /// Opens and checks the structure. `count` is the byte offset of a fault. What the header and
    /// the index list takes at most `max_bytes` each while they are read; more is too_large.
    /// Without that bound it takes in proportion to their bytes.
    [[nodiscard]] static Result open(const std::string& path, File& file,
                                     std::size_t max_bytes = SIZE_MAX);
    /// The same from memory that must outlive the File.
    [[nodiscard]] static Result parse(std::span<const std::uint8_t> bytes, File& file,
                                      std::size_t max_bytes = SIZE_MAX);

    /// In the order of their names.
    [[nodiscard]] const std::vector<TensorView>& tensors() const& noexcept;
    const std::vector<TensorView>& tensors() const&& = delete;
    /// The tensor of that name, or nullptr; takes the same time in a file of any length.
    [[nodiscard]] const TensorView* find(std::string_view name) const& noexcept;
    const TensorView* find(std::string_view name) const&& = delete;
    /// The `__metadata__` of the file.
    [[nodiscard]] const Metadata& metadata() const& noexcept;
    const Metadata& metadata() const&& = delete;
    [[nodiscard]] std::size_t file_bytes() const noexcept;
    /// Whether tersor wrote it (any other safetensors file opens too, with nothing compressed).
    [[nodiscard]] bool is_tersor() const noexcept;
    /// Checks every hash that opening has not checked; `count` is the offset of the first tensor
    /// that fails. Together they cover every byte of a file that this library wrote; of others,
    /// the blobs alone.
    [[nodiscard]] Result verify(int threads = 1) const;
    /// The same for one tensor. Throws std::invalid_argument where it is not one of this file's.
    [[nodiscard]] Result verify(const TensorView& tensor) const;
    /// Lets the system take back the memory that the mapped bytes of a tensor take, until they are
    /// read again. Nothing where the tensor is another file's.
    void release(const TensorView& tensor) const noexcept;

private:
    struct Content;
    [[nodiscard]] const Content& content() const noexcept;

    std::unique_ptr<const Content> content_;  // none where no file is open
};

enum class FileKind : std::uint8_t {
    indexed,  // the library's own: hashes of everything, small tensors together
    plain,    // as the stock library writes it: every tensor has an entry, and none a hash
};

/// Writes `path` in one step: a temporary file beside it, fsync, rename. What a symbolic link leads
/// to is replaced, and not the link. A file that is replaced hands its permissions on, and its
/// owner and group where the process may set them. The same input gives the same bytes. Throws
/// std::invalid_argument for what a reader would refuse (names or metadata keys that occur twice,
/// names that are the format's own, text that is not UTF-8, unknown dtypes, sizes that do not fit,
/// more than 100 MB of header) and std::system_error when the operating system refuses; then
/// nothing is left behind and an old file stays as it was.
void write_file(const std::string& path, std::span<const TensorToWrite> tensors,
                const Metadata& metadata = {}, FileKind kind = FileKind::indexed);

}  // namespace tersor
