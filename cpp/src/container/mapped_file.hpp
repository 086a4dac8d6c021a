// A file that is read through the memory it is mapped to.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

namespace tersor::container {

/// The bytes of a file. If another program cuts the file short meanwhile, reading what it lost ends
/// the process (SIGBUS), as with every mapping.
class MappedFile {
public:
    MappedFile() = default;
    MappedFile(const MappedFile&) = delete;
    MappedFile& operator=(const MappedFile&) = delete;
    ~MappedFile();

    /// False where the system refuses, or the path names no file.
    [[nodiscard]] bool open(const std::string& path);

    [[nodiscard]] std::span<const std::uint8_t> bytes() const noexcept { return bytes_; }

    /// Gives the memory of some of the bytes back, as far as they fill pages; reading brings them
    /// back. Of other memory nothing.
    void release(std::span<const std::uint8_t> part) const noexcept;

private:
    std::span<const std::uint8_t> bytes_;
};

}  // namespace tersor::container
