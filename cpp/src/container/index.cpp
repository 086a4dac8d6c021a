#include "container/index.hpp"

#include <algorithm>
#include <array>

#include "container/json.hpp"
#include "container/tensor_types.hpp"
#include "hash/xxh3.hpp"
#include "support/little_endian.hpp"
#include "support/varint.hpp"

namespace tersor::container {
namespace {

using support::append_varint;
using support::Cursor;

constexpr std::array<std::uint8_t, 4> magic = {'T', 'E', 'R', 'S'};
constexpr std::size_t header_hash_at = magic.size() + 1;
constexpr std::size_t hash_bytes = 8;
constexpr std::uint64_t minor_version = 0;
constexpr std::uint64_t known_features = 0;
constexpr std::size_t max_padding = 7;
/// A name's two lengths, a type and a size take a byte each at least.
constexpr std::size_t min_entry_bytes = 4;
/// The type of a blob, whose name stands without its suffix; others are codes of element types.
constexpr std::uint8_t blob_type = 0;

/// To a multiple of a power of two, as the sizes of all elements are.
std::size_t round_up(std::size_t size, std::size_t alignment) noexcept {
    return (size + alignment - 1) & ~(alignment - 1);
}

/// How many bytes the names have in common from the start.
std::size_t shared_prefix(std::string_view a, std::string_view b) noexcept {
    const auto [end, other] = std::mismatch(a.begin(), a.end(), b.begin(), b.end());
    (void)other;
    return static_cast<std::size_t>(end - a.begin());
}

/// Reads one member's entry. `name` is the name before and then this one, both without suffix.
void read_entry(Cursor& cursor, std::string& name, TensorView& tensor, std::uint64_t& bytes) {
    const std::uint64_t shared = cursor.varint();
    const auto rest = cursor.take(cursor.varint());
    if (shared > name.size()) cursor.fail(Status::bad_header);
    if (!cursor.ok()) return;
    name.resize(static_cast<std::size_t>(shared));
    name.append(rest.begin(), rest.end());
    if (!is_utf8(name)) cursor.fail(Status::bad_header);
    tensor.name = name;
    const std::uint8_t type = cursor.byte();
    if (type == blob_type) {
        tensor.name += blob_suffix;
        tensor.dtype = "U8";
        tensor.compressed = true;
        bytes = cursor.varint();
        tensor.shape = {bytes};
        return;
    }
    if (type > element_types.size()) {
        cursor.fail(Status::bad_header);
        return;
    }
    const ElementType& element = element_types[type - 1];
    tensor.dtype = element.name;
    for (std::uint64_t d = cursor.varint(); cursor.ok() && d > 0; --d) {
        tensor.shape.push_back(cursor.varint());
    }
    if (!tensor_bytes(tensor.shape, element.bytes, bytes)) cursor.fail(Status::too_large);
}

bool all_zero(std::span<const std::uint8_t> bytes) noexcept {
    return std::ranges::all_of(bytes, [](std::uint8_t byte) { return byte == 0; });
}

/// Hands out the contents that follow the entries.
void read_contents(Cursor& cursor, std::span<const std::uint64_t> sizes, Index& parsed) {
    const std::size_t width =
        parsed.members.empty() ? 1 : element_bytes(parsed.members.front().dtype);
    const std::size_t padding = round_up(cursor.position(), width) - cursor.position();
    if (!all_zero(cursor.take(padding))) cursor.fail(Status::bad_header);
    for (std::size_t i = 0; cursor.ok() && i < sizes.size(); ++i) {
        TensorView& member = parsed.members[i];
        member.offset = cursor.position();
        member.bytes = cursor.take(sizes[i]);
    }
    if (!cursor.ok()) return;
    if (cursor.remaining() > max_padding) cursor.fail(Status::trailing_bytes);
    if (!all_zero(cursor.rest())) cursor.fail(Status::bad_header);
}

}  // namespace

bool starts_like_index(std::span<const std::uint8_t> bytes) noexcept {
    return bytes.size() >= magic.size() && std::equal(magic.begin(), magic.end(), bytes.begin());
}

std::vector<std::uint8_t> encode_index(std::span<const TensorToWrite* const> members,
                                       std::span<const std::uint64_t> hashes,
                                       std::size_t alignment) {
    std::vector<std::uint8_t> index(magic.begin(), magic.end());
    index.push_back(file_version);
    index.resize(index.size() + hash_bytes);  // of the header
    append_varint(minor_version, index);
    append_varint(0, index);  // required features
    append_varint(0, index);  // bytes of extras
    for (const std::uint64_t hash : hashes) support::append_little_endian(hash, index);
    append_varint(members.size(), index);
    std::string_view before;
    for (const TensorToWrite* member : members) {
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
    return index;
}

void seal_index(std::span<std::uint8_t> index, std::span<const std::uint8_t> header) noexcept {
    support::store_little_endian(hash::xxh3_64(header), index.data() + header_hash_at);
    const std::size_t end = index.size() - hash_bytes;
    support::store_little_endian(hash::xxh3_64(index.first(end)), index.data() + end);
}

Result parse_index(std::span<const std::uint8_t> index, std::size_t outside, Index& parsed) {
    if (!starts_like_index(index)) return {Status::bad_magic, 0};
    if (index.size() < header_hash_at + 2 * hash_bytes) return {Status::truncated, index.size()};
    if (index[magic.size()] != file_version) return {Status::unsupported_version, magic.size()};
    const std::size_t end = index.size() - hash_bytes;
    if (support::load_little_endian<std::uint64_t>(index.data() + end) !=
        hash::xxh3_64(index.first(end))) {
        return {Status::hash_mismatch, end};
    }
    Cursor cursor(index.first(end));
    (void)cursor.take(header_hash_at);
    const auto read_hash = [&cursor] {
        const auto bytes = cursor.take(hash_bytes);
        return bytes.empty() ? 0 : support::load_little_endian<std::uint64_t>(bytes.data());
    };
    parsed.header_hash = read_hash();
    const std::uint64_t minor = cursor.varint();
    if ((cursor.varint() & ~known_features) != 0) cursor.fail(Status::unsupported_version);
    const auto extras = cursor.take(cursor.varint());
    if (minor == 0 && !extras.empty()) cursor.fail(Status::bad_header);
    for (std::size_t i = 0; cursor.ok() && i < outside; ++i) parsed.hashes.push_back(read_hash());

    const std::uint64_t count = cursor.varint();
    if (count > cursor.remaining() / min_entry_bytes) cursor.fail(Status::too_large);
    std::string name;
    std::vector<std::uint64_t> sizes;
    for (std::uint64_t i = 0; cursor.ok() && i < count; ++i) {
        read_entry(cursor, name, parsed.members.emplace_back(), sizes.emplace_back());
    }
    if (cursor.ok()) read_contents(cursor, sizes, parsed);
    if (!cursor.ok()) return cursor.result();
    for (TensorView& member : parsed.members) {
        const bool blob = is_blob(member.name, member.dtype, member.shape, member.bytes);
        // One kind of tensor has one way to be written.
        if (blob != member.compressed) return {Status::bad_header, member.offset};
    }
    return {Status::ok, index.size()};
}

}  // namespace tersor::container
