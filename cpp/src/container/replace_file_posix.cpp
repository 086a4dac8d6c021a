#include <dirent.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <memory>
#include <random>
#include <string_view>
#include <system_error>
#include <utility>

#include "container/replace_file.hpp"

namespace tersor::container {
namespace {

/// What file systems allow a name.
constexpr std::size_t max_name = 255;
constexpr std::size_t random_digits = 16;
constexpr int most_links = 40;  // as Linux follows
constexpr int most_tries = 100;

[[noreturn]] void throw_error(int code, const std::string& target, const char* what) {
    throw std::system_error(code, std::generic_category(), target + ": " + what);
}

/// What a path leads to.
std::string follow_links(const std::string& path) {
    std::filesystem::path place(path);
    for (int links = 0; links < most_links; ++links) {
        std::error_code not_a_link;
        const std::filesystem::path next = std::filesystem::read_symlink(place, not_a_link);
        if (not_a_link) return place.string();
        place = place.parent_path() / next;
    }
    throw_error(ELOOP, path, "cannot be followed");
}

std::string folder_of(const std::string& path) {
    std::string folder = std::filesystem::path(path).parent_path().string();
    return folder.empty() ? "." : folder;
}

/// What the names of all replacements of a target begin with; random digits follow.
std::string prefix_of(const std::string& target) {
    constexpr std::string_view mark = ".tersor-";
    const std::string name = std::filesystem::path(target).filename().string();
    return '.' + name.substr(0, max_name - 1 - mark.size() - random_digits) + std::string(mark);
}

std::string digits() {
    std::random_device random;
    std::string text;
    while (text.size() < random_digits) text += "0123456789abcdef"[random() % 16];
    return text;
}

/// Whether the path still names the open file.
bool names(const std::string& path, const struct stat& opened) noexcept {
    struct stat named{};
    return lstat(path.c_str(), &named) == 0 && opened.st_dev == named.st_dev &&
           opened.st_ino == named.st_ino;
}

bool lock(int descriptor, int how) noexcept {
    int refused = 0;
    while ((refused = flock(descriptor, how)) != 0 && errno == EINTR) {
    }
    return refused == 0;
}

/// Removes a file that a killed process left: it is the user's, and its lock ended with the
/// process.
void remove_leftover(const std::string& path) noexcept {
    const int descriptor = ::open(path.c_str(), O_RDWR | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    if (descriptor < 0) return;
    struct stat opened{};
    if (fstat(descriptor, &opened) == 0 && S_ISREG(opened.st_mode) && opened.st_uid == geteuid() &&
        lock(descriptor, LOCK_EX | LOCK_NB) && names(path, opened)) {
        unlink(path.c_str());
    }
    ::close(descriptor);
}

/// A folder that cannot be listed keeps what is in it. (libstdc++'s directory_iterator ends the
/// process where there is no memory.)
void remove_leftovers(const std::string& folder, const std::string& prefix) {
    const std::unique_ptr<DIR, int (*)(DIR*)> listing(opendir(folder.c_str()), closedir);
    if (listing == nullptr) return;
    while (const dirent* entry = readdir(listing.get())) {
        const std::string_view name(entry->d_name);
        if (name.size() != prefix.size() + random_digits || !name.starts_with(prefix)) continue;
        remove_leftover((folder + '/').append(name));
    }
}

/// Gives the new file the permissions of the old one, and its owner where that is allowed. Where
/// not even permissions can be set, it stays the user's alone.
void take_over(int descriptor, const struct stat& old) noexcept {
    mode_t mode = old.st_mode & 0777;
    if (fchown(descriptor, old.st_uid, old.st_gid) != 0 &&
        fchown(descriptor, static_cast<uid_t>(-1), old.st_gid) != 0) {
        // The group is another one: it may do what everybody might.
        mode = (mode & ~mode_t{070}) | (mode & 07) << 3;
    }
    static_cast<void>(fchmod(descriptor, mode));
}

/// Pushes what was written to the disk itself, so that a rename never outruns the content.
void sync_to_disk(int descriptor, const std::string& target) {
    // Some file systems have nothing to push, and say so.
    if (fsync(descriptor) != 0 && errno != EINVAL && errno != ENOTSUP && errno != ENOSYS) {
        throw_error(errno, target, "cannot be written");
    }
}

/// So that the rename itself outlives a power failure. The file is in its place already: whether
/// the folder may be opened, or its file system can do that, changes nothing.
void try_to_sync_folder(const std::string& folder) noexcept {
    const int descriptor = ::open(folder.c_str(), O_RDONLY | O_CLOEXEC);
    if (descriptor < 0) return;
    fsync(descriptor);
    ::close(descriptor);
}

}  // namespace

FileReplacement::FileReplacement(const std::string& target)
    : target_(follow_links(target)), folder_(folder_of(target_)) {
    struct stat old{};
    const bool replaces = stat(target_.c_str(), &old) == 0;
    if (replaces && S_ISDIR(old.st_mode)) throw_error(EISDIR, target_, "cannot be replaced");
    if (replaces && !S_ISREG(old.st_mode)) {
        throw_error(ENOTSUP, target_, "only a file can be replaced");
    }
    const std::string prefix = prefix_of(target_);
    remove_leftovers(folder_, prefix);
    for (int tries = 0; tries < most_tries; ++tries) {
        path_ = folder_ + '/' + prefix + digits();
        // Nobody reads what replaces a private file before its permissions are known.
        descriptor_ =
            ::open(path_.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, replaces ? 0600 : 0666);
        if (descriptor_ < 0 && errno == EEXIST) continue;
        if (descriptor_ < 0) {
            throw_error(errno, target_, "a file cannot be made in its folder");
        }
        // Until it has its lock, another process takes it for a leftover. Where there are no locks,
        // none does.
        static_cast<void>(lock(descriptor_, LOCK_EX));
        struct stat opened{};
        if (fstat(descriptor_, &opened) == 0 && names(path_, opened)) break;
        ::close(std::exchange(descriptor_, -1));
    }
    if (descriptor_ < 0) throw_error(EEXIST, target_, "a file cannot be made in its folder");
    if (replaces) take_over(descriptor_, old);
}

FileReplacement::~FileReplacement() {
    // The name goes before the lock does.
    if (!path_.empty()) unlink(path_.c_str());
    ::close(descriptor_);
}

void FileReplacement::write(std::span<const std::uint8_t> bytes) {
    constexpr std::size_t at_once = std::size_t{1} << 30;  // macOS refuses 2 GB
    while (!bytes.empty()) {
        const ::ssize_t written =
            ::write(descriptor_, bytes.data(), std::min(bytes.size(), at_once));
        if (written < 0 && errno == EINTR) continue;
        if (written <= 0) throw_error(written < 0 ? errno : EIO, target_, "cannot be written");
        bytes = bytes.subspan(static_cast<std::size_t>(written));
    }
}

void FileReplacement::commit() {
    sync_to_disk(descriptor_, target_);
    if (rename(path_.c_str(), target_.c_str()) != 0) {
        throw_error(errno, target_, "cannot be replaced");
    }
    path_.clear();
    try_to_sync_folder(folder_);
}

}  // namespace tersor::container
