// A copy of bytes that ends at a page without access: reading past the end stops the program at
// once, also where no sanitizer watches, as inside intrinsics.
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <new>
#include <span>

namespace tersor::test {

class GuardedBytes {
public:
    explicit GuardedBytes(std::span<const std::uint8_t> bytes) : size_(bytes.size()) {
        const auto page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
        readable_ = (size_ + page - 1) / page * page;
        mapped_ = readable_ + page;
        void* mapping =
            mmap(nullptr, mapped_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (mapping == MAP_FAILED) throw std::bad_alloc();
        mapping_ = static_cast<std::uint8_t*>(mapping);
        std::copy(bytes.begin(), bytes.end(), mapping_ + readable_ - size_);
        if (mprotect(mapping_ + readable_, page, PROT_NONE) != 0) throw std::bad_alloc();
    }
    GuardedBytes(const GuardedBytes&) = delete;
    GuardedBytes& operator=(const GuardedBytes&) = delete;
    ~GuardedBytes() { munmap(mapping_, mapped_); }

    [[nodiscard]] std::span<const std::uint8_t> bytes() const noexcept {
        return {mapping_ + readable_ - size_, size_};
    }

private:
    std::size_t size_;
    std::size_t readable_ = 0;
    std::size_t mapped_ = 0;
    std::uint8_t* mapping_ = nullptr;
};

}  // namespace tersor::test
