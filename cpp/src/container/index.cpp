#include "container/index.hpp"

#include <algorithm>

#include "container/index_parts.hpp"
#include "container/json.hpp"
#include "container/tensor_types.hpp"
#include "contexts/byte_model.hpp"
#include "contexts/range_coder.hpp"
#include "hash/xxh3.hpp"
#include "support/little_endian.hpp"
#include "support/varint.hpp"

namespace tersor::container {
namespace {

using support::Cursor;

/// Reads one member's entry. `name` is the name before and then this one, both without suffix.
void read_entry(Cursor& cursor, std::string& name, TensorView& tensor, std::uint64_t& bytes) {
    const std::uint64_t shared = cursor.varint();
    const auto suffix = cursor.take(cursor.varint());
    if (shared > name.size()) cursor.fail(Status::bad_header);
    if (!cursor.ok()) return;
    name.resize(static_cast<std::size_t>(shared));
    name.append(suffix.begin(), suffix.end());
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

/// Reads the number of members and their entries.
void read_entries(Cursor& cursor, std::size_t index_bytes, std::size_t max_bytes, Index& parsed,
                  std::vector<std::uint64_t>& sizes) {
    const std::uint64_t count = cursor.varint();
    if (count > cursor.remaining() / min_entry_bytes) cursor.fail(Status::too_large);
    std::string name;
    std::size_t names = 0;
    std::size_t memory = 0;
    for (std::uint64_t i = 0; cursor.ok() && i < count; ++i) {
        TensorView& member = parsed.members.emplace_back();
        read_entry(cursor, name, member, sizes.emplace_back());
        names += member.name.size();
        memory += sizeof(TensorView) + member.name.size() + 8 * (member.shape.size() + 1);
        // Vectors that grow hold up to twice as much.
        if (names > max_name_expansion * index_bytes + names_believed || memory > max_bytes / 2) {
            cursor.fail(Status::too_large);
        }
    }
}

/// Hands out the contents that follow the entries, but for those that were coded.
void read_contents(Cursor& cursor, std::span<const std::uint64_t> sizes, bool coded,
                   Index& parsed) {
    const std::size_t width =
        parsed.members.empty() || coded ? 1 : element_bytes(parsed.members.front().dtype);
    const std::size_t padding = round_up(cursor.position(), width) - cursor.position();
    if (!all_zero(cursor.take(padding))) cursor.fail(Status::bad_header);
    for (std::size_t i = 0; cursor.ok() && i < sizes.size(); ++i) {
        TensorView& member = parsed.members[i];
        if (coded && !member.compressed) continue;
        member.offset = cursor.position();
        member.bytes = cursor.take(sizes[i]);
    }
    if (!cursor.ok()) return;
    if (cursor.remaining() > max_padding) cursor.fail(Status::trailing_bytes);
    if (!all_zero(cursor.remaining_bytes())) cursor.fail(Status::bad_header);
}

/// Entries and ordinary members of an index that codes them.
void read_coded(Cursor& cursor, std::size_t index_bytes, std::size_t max_bytes, Index& parsed,
                std::vector<std::uint64_t>& sizes) {
    const std::uint64_t text_bytes = cursor.varint();
    const std::uint64_t stream_bytes = cursor.varint();
    const std::size_t begin = cursor.position();
    contexts::Decoder decoder(cursor.take(stream_bytes));
    const std::size_t limit =
        std::min(max_bytes, max_coded_expansion * index_bytes + coded_believed);
    if (text_bytes > limit) cursor.fail(Status::too_large);
    if (!cursor.ok()) return;
    contexts::ByteModel<contexts::Decoder> model(decoder);
    std::vector<std::uint8_t> text(static_cast<std::size_t>(text_bytes));
    bool good = model.code_text(text);
    Cursor entries(text);
    if (good) read_entries(entries, index_bytes, max_bytes, parsed, sizes);
    if (good && entries.ok() && entries.remaining() != 0) entries.fail(Status::trailing_bytes);
    if (!entries.ok()) cursor.fail(entries.result().status);
    std::uint64_t total = 0;
    for (std::size_t i = 0; cursor.ok() && i < sizes.size(); ++i) {
        if (!parsed.members[i].compressed) total += std::min<std::uint64_t>(sizes[i], limit + 1);
        if (total > limit - text.size()) cursor.fail(Status::too_large);
    }
    if (!good || !cursor.ok()) return cursor.fail(Status::truncated);
    parsed.decoded.resize(static_cast<std::size_t>(total));
    std::span<std::uint8_t> left(parsed.decoded);
    for (std::size_t i = 0; good && i < sizes.size(); ++i) {
        TensorView& member = parsed.members[i];
        if (member.compressed) continue;
        const auto bytes = left.first(static_cast<std::size_t>(sizes[i]));
        left = left.subspan(bytes.size());
        good = model.code_elements(bytes, element_bytes(member.dtype));
        member.bytes = bytes;
        member.offset = begin;
    }
    if (!good || decoder.exhausted()) cursor.fail(Status::truncated);
    if (!decoder.at_end()) cursor.fail(Status::trailing_bytes);
}

}  // namespace

bool starts_like_index(std::span<const std::uint8_t> bytes) noexcept {
    return bytes.size() >= index_magic.size() &&
           std::equal(index_magic.begin(), index_magic.end(), bytes.begin());
}

Result parse_index(std::span<const std::uint8_t> index, std::size_t outside, Index& parsed,
                   std::size_t max_bytes) {
    if (!starts_like_index(index)) return {Status::bad_magic, 0};
    if (index.size() < header_hash_at + 2 * hash_bytes) return {Status::truncated, index.size()};
    if (index[index_magic.size()] != file_version)
        return {Status::unsupported_version, index_magic.size()};
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
    const std::uint64_t features = cursor.varint();
    if ((features & ~known_features) != 0) cursor.fail(Status::unsupported_version);
    const auto extras = cursor.take(cursor.varint());
    if (minor == 0 && !extras.empty()) cursor.fail(Status::bad_header);
    for (std::size_t i = 0; cursor.ok() && i < outside; ++i) parsed.hashes.push_back(read_hash());

    std::vector<std::uint64_t> sizes;
    const bool coded = (features & coded_feature) != 0;
    (coded ? read_coded : read_entries)(cursor, index.size(), max_bytes, parsed, sizes);
    if (cursor.ok()) read_contents(cursor, sizes, coded, parsed);
    if (!cursor.ok()) return cursor.result();
    for (TensorView& member : parsed.members) {
        const bool blob = is_blob(member.name, member.dtype, member.shape, member.bytes);
        // One kind of tensor has one way to be written.
        if (blob != member.compressed) return {Status::bad_header, member.offset};
    }
    return {Status::ok, index.size()};
}

}  // namespace tersor::container
