// A new file in the place of an old one, in one step.
#pragma once

#include <cstdint>
#include <span>
#include <string>

namespace tersor::container {

/// A file beside the target that disappears unless `commit` renames it over the target. Its name is
/// nobody else's: it begins with the target's and ends in random digits. While it exists it is
/// locked, so that what a killed process left can be told from what is being written; the next
/// replacement of the same target removes it.
///
/// A target that is a symbolic link stays one: what it leads to is replaced. The new file has the
/// old one's permissions, and its owner and group as far as the process may set them.
///
/// Every function throws std::system_error, whose text begins with the target's path, when the
/// operating system refuses; then the old file is as it was.
class FileReplacement {
public:
    explicit FileReplacement(const std::string& target);
    FileReplacement(const FileReplacement&) = delete;
    FileReplacement& operator=(const FileReplacement&) = delete;
    ~FileReplacement();

    void write(std::span<const std::uint8_t> bytes);
    /// Pushes everything to the disk and gives the file the target's name.
    void commit();

private:
    std::string target_;
    std::string folder_;  // that it is in
    std::string path_;    // empty once it has the target's name
    int descriptor_ = -1;
};

}  // namespace tersor::container
