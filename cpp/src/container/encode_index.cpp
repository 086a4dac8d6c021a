#include <algorithm>
#include <stdexcept>
#include <string>

#include "container/index.hpp"
#include "container/index_parts.hpp"
#include "container/layer_parts.hpp"
#include "container/tensor_types.hpp"
#include "contexts/byte_model.hpp"
#include "contexts/range_coder.hpp"
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

bool is_blob_member(const TensorToWrite& member) noexcept {
    return is_blob(member.name, member.dtype, member.shape, member.bytes);
}

/// The index as far as the hashes of what stands beside it.
std::vector<std::uint8_t> start_of_index(std::uint64_t features,
                                         std::span<const std::uint64_t> hashes) {
    std::vector<std::uint8_t> index(index_magic.begin(), index_magic.end());
    index.push_back(file_version);
    index.resize(index.size() + hash_bytes);  // of the header
    append_varint(minor_version, index);
    append_varint(features, index);
    append_varint(0, index);  // bytes of extras
    for (const std::uint64_t hash : hashes) support::append_little_endian(hash, index);
    return index;
}

void append_entries(std::span<const TensorToWrite* const> members,
                    std::vector<std::uint8_t>& index) {
    append_varint(members.size(), index);
    std::string_view before;
    for (const TensorToWrite* member : members) {
        const bool blob = is_blob_member(*member);
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
}

/// Members as they are, after their entries.
std::vector<std::uint8_t> plain_index(std::span<const TensorToWrite* const> members,
                                      std::span<const std::uint64_t> hashes) {
    std::vector<std::uint8_t> index = start_of_index(0, hashes);
    append_entries(members, index);
    if (!members.empty()) {
        index.resize(round_up(index.size(), element_bytes(members.front()->dtype)));
    }
    for (const TensorToWrite* member : members) {
        index.insert(index.end(), member->bytes.begin(), member->bytes.end());
    }
    return index;
}

/// Entries and ordinary members as one stream, then the blobs; empty where a reader would take it
/// for a bomb.
std::vector<std::uint8_t> coded_index(std::span<const TensorToWrite* const> members,
                                      std::span<const std::uint64_t> hashes) {
    std::vector<std::uint8_t> text;
    append_entries(members, text);
    std::vector<std::uint8_t> stream;
    contexts::Encoder encoder(stream);
    contexts::ByteModel<contexts::Encoder> model(encoder);
    static_cast<void>(model.code_text(text));
    std::size_t coded = text.size();
    for (const TensorToWrite* member : members) {
        if (is_blob_member(*member)) continue;
        std::vector<std::uint8_t> bytes(member->bytes.begin(), member->bytes.end());
        static_cast<void>(model.code_elements(bytes, element_bytes(member->dtype)));
        coded += bytes.size();
    }
    encoder.finish();
    std::vector<std::uint8_t> index = start_of_index(coded_feature, hashes);
    append_varint(text.size(), index);
    append_varint(stream.size(), index);
    index.insert(index.end(), stream.begin(), stream.end());
    for (const TensorToWrite* member : members) {
        if (is_blob_member(*member)) {
            index.insert(index.end(), member->bytes.begin(), member->bytes.end());
        }
    }
    if (coded > max_coded_expansion * index.size() + coded_believed) index.clear();
    return index;
}

/// Whether a blob is one that only readers know who know coded indexes too.
bool has_contexts(const TensorToWrite& member) noexcept {
    return is_blob_member(member) && member.bytes.size() > layer_parts::magic.size() &&
           member.bytes[layer_parts::magic.size()] == layer_parts::version_with_contexts;
}

}  // namespace

std::vector<std::uint8_t> encode_index(std::span<const TensorToWrite* const> members,
                                       std::span<const std::uint64_t> hashes,
                                       std::size_t alignment) {
    std::vector<std::uint8_t> index = plain_index(members, hashes);
    const bool contexts =
        std::ranges::any_of(members, [](const TensorToWrite* m) { return has_contexts(*m); });
    if (contexts) {
        std::vector<std::uint8_t> coded = coded_index(members, hashes);
        if (!coded.empty() && coded.size() < index.size()) index = std::move(coded);
    }
    std::size_t names = 0;
    for (const TensorToWrite* member : members) names += member->name.size();
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
