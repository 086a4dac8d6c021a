#include "support/attachments.hpp"

#include <algorithm>
#include <new>
#include <utility>

namespace tersor::support {

void Attachments::lock() const noexcept {
    // Pointers that a thread of the parent was moving may be torn: they are left, not destroyed.
    if (lock_.lock()) new (&entries_) Entries;
}

std::shared_ptr<Attachments::Entry> Attachments::find(const Key& key) const {
    lock();
    const auto has_key = [&](const auto& entry) { return entry != nullptr && entry->key == key; };
    auto found = std::ranges::find_if(entries_, has_key);
    std::shared_ptr<Entry> dropped;  // freed without the lock
    if (found == entries_.end()) {
        std::shared_ptr<Entry> added;
        try {
            added = std::make_shared<Entry>();
        } catch (...) {
            lock_.unlock();
            throw;
        }
        added->key = key;
        dropped = std::exchange(entries_.back(), std::move(added));
        found = entries_.end() - 1;
    }
    std::rotate(entries_.begin(), found, found + 1);
    std::shared_ptr<Entry> entry = entries_.front();
    lock_.unlock();
    return entry;
}

std::size_t Attachments::nbytes() const noexcept {
    lock();
    const Entries entries = entries_;
    lock_.unlock();
    std::size_t bytes = 0;
    for (const auto& entry : entries) {
        if (entry == nullptr) continue;
        if (const Pointer* attachment = entry->attachment.peek()) bytes += (*attachment)->nbytes();
    }
    return bytes;
}

}  // namespace tersor::support
