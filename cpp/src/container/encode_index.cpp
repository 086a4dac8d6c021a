#include <algorithm>
#include <stdexcept>
#include <string>

#include "container/index.hpp"
#include "container/index_parts.hpp"
#include "container/tensor_types.hpp"
#include "hash/xxh3.hpp"
#include "support/little_endian.hpp"
#include "support/varint.hpp"

namespace tersor::container {
namespace {

using support::append_varint;

/// How many bytes the names have in common from the start.
std::size_t shared_prefix(std::string_view a, std::string_view b) noexcept {
    const auto [end, other] = std::mismatch(a.begin(), a.end(), b.begin(), b.end());
    (void)other;
    return static_cast<std::size_t>(end - a.begin());
}

}  // namespace

std::vector<std::uint8_t> encode_index(std::span<const TensorToWrite* const> members,
                                       std::span<const std::uint64_t> hashes,
                                       std::size_t alignment) {
    std::vector<std::uint8_t> index(index_magic.begin(), index_magic.end());
    index.push_back(file_version);
    index.resize(index.size() + hash_bytes);  // of the header
    append_varint(minor_version, index);
    append_varint(0, index);  // required features
    append_varint(0, index);  // bytes of extras
    for (const std::uint64_t hash : hashes) support::append_little_endian(hash, index);
    append_varint(members.size(), index);
    std::string_view before;
    std::size_t names = 0;
    for (const TensorToWrite* member : members) {
        names += member->name.size();
        const bool blob = is_blob(member->name, member->dtype, member->shape, member->bytes);
        std::string_view name = member->name;
        if (blob) name.remove_suffix(blob_suffix.size());
        const std::size_t shared = shared_prefix(before, name);
        append_varint(shared, index);
        append_varint(name.size() - shared, index);
        index.insert(index.end(), name.begin() + static_cast<std::ptrdiff_t>(shared), name.end());
        if (blob) {
            index.push_back(blob_type);
            append_varint(member->bytes.size(), index);
        } else {
            index.push_back(element_code(member->dtype));
            append_varint(member->shape.size(), index);
            for (const std::uint64_t dimension : member->shape) append_varint(dimension, index);
        }
        before = name;
    }
    if (!members.empty()) {
        index.resize(round_up(index.size(), element_bytes(members.front()->dtype)));
    }
    for (const TensorToWrite* member : members) {
        index.insert(index.end(), member->bytes.begin(), member->bytes.end());
    }
    index.resize(round_up(index.size() + hash_bytes, alignment));
    if (names > max_name_expansion * index.size() + names_believed) {
        throw std::invalid_argument("the names of small tensors take " + std::to_string(names) +
                                    " bytes, more than a reader accepts");
    }
    return index;
}

void seal_index(std::span<std::uint8_t> index, std::span<const std::uint8_t> header) noexcept {
    support::store_little_endian(hash::xxh3_64(header), index.data() + header_hash_at);
    const std::size_t end = index.size() - hash_bytes;
    support::store_little_endian(hash::xxh3_64(index.first(end)), index.data() + end);
}

}  // namespace tersor::container
