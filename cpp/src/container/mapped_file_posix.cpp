#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <functional>
#include <limits>

#include "container/mapped_file.hpp"

namespace tersor::container {

MappedFile::~MappedFile() {
    if (!bytes_.empty()) munmap(const_cast<std::uint8_t*>(bytes_.data()), bytes_.size());
}

bool MappedFile::open(const std::string& path) {
    const int descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
    if (descriptor < 0) return false;
    struct stat status{};
    bool good =
        fstat(descriptor, &status) == 0 && S_ISREG(status.st_mode) &&
        static_cast<std::uint64_t>(status.st_size) <= std::numeric_limits<std::size_t>::max();
    if (good && status.st_size > 0) {
        const auto size = static_cast<std::size_t>(status.st_size);
        void* const mapping = mmap(nullptr, size, PROT_READ, MAP_PRIVATE, descriptor, 0);
        good = mapping != MAP_FAILED;
        if (good) bytes_ = {static_cast<const std::uint8_t*>(mapping), size};
    }
    ::close(descriptor);
    return good;
}

void MappedFile::release(std::span<const std::uint8_t> part) const noexcept {
    const std::less_equal<const std::uint8_t*> before;  // of unrelated addresses as well
    const std::uint8_t* const start = bytes_.data();
    if (part.empty() || bytes_.empty() || !before(start, part.data()) ||
        !before(part.data() + part.size(), start + bytes_.size())) {
        return;
    }
    const auto page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
    const auto offset = static_cast<std::size_t>(part.data() - start);
    const std::size_t first = (offset + page - 1) / page * page;
    const std::size_t end = (offset + part.size()) / page * page;
    if (first < end) {
        madvise(const_cast<std::uint8_t*>(start) + first, end - first, MADV_DONTNEED);
    }
}

}  // namespace tersor::container
