// What is made of an object for certain uses of it, by a key, the last few uses: the object's topic
// need not know what that is.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>

#include "support/fork_lock.hpp"
#include "support/lazy.hpp"

namespace tersor::support {

struct Attachment {
    virtual ~Attachment() = default;
    [[nodiscard]] virtual std::size_t nbytes() const noexcept = 0;
};

/// Any number of threads may ask at once; they make different attachments side by side.
class Attachments {
public:
    using Key = std::array<std::uint32_t, 14>;
    using Pointer = std::shared_ptr<const Attachment>;

    /// Of as many keys the attachments are kept; then the one that was not used for longest goes,
    /// though whoever holds it may go on.
    static constexpr std::size_t most_kept = 8;

    /// The attachment, made by `make()` (which returns a Pointer) unless it is there. What that
    /// throws goes to the thread that called it.
    template <class Make>
    [[nodiscard]] Pointer get(const Key& key, const Make& make) const {
        const std::shared_ptr<Entry> entry = find(key);
        return entry->attachment.get(make);
    }

    /// Of all attachments that are kept.
    [[nodiscard]] std::size_t nbytes() const noexcept;

private:
    struct Entry {
        Key key{};
        Lazy<Pointer> attachment;
    };
    using Entries = std::array<std::shared_ptr<Entry>, most_kept>;

    [[nodiscard]] std::shared_ptr<Entry> find(const Key& key) const;
    void lock() const noexcept;

    mutable ForkLock lock_;
    mutable Entries entries_;  // the last used first
};

}  // namespace tersor::support
