#include "container/index.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <iterator>
#include <string>

#include "contexts/byte_model.hpp"
#include "contexts/range_coder.hpp"
#include "hash/xxh3.hpp"
#include "header_problem.hpp"
#include "support/varint.hpp"
#include "tersor/container.hpp"

namespace tersor {
namespace {

using namespace test;

/// A file that starts with an index whose fields from the minor version on are `fields`; `outside`
/// are further entries of the header and `data` what they speak of.
Bytes file_of_index(Bytes fields, const std::string& outside = "", const Bytes& data = {}) {
    Bytes index = {'T', 'E', 'R', 'S', 1};
    index.resize(13);
    index.insert(index.end(), fields.begin(), fields.end());
    index.resize(index.size() + 8);
    const std::string size = std::to_string(index.size());
    Bytes bytes =
        file_of(R"({"tersor":)" + entry("[" + size + "]", "[0," + size + "]") + outside + "}");
    container::seal_index(index, bytes);
    bytes.insert(bytes.end(), index.begin(), index.end());
    bytes.insert(bytes.end(), data.begin(), data.end());
    return bytes;
}

/// The fields of an index whose members have these entries and contents, without padding.
Bytes members(std::uint8_t count, const Bytes& rest) {
    Bytes fields(rest.size() + 4);  // of version 1.0, without features and extras
    fields[3] = count;
    std::ranges::copy(rest, fields.begin() + 4);
    return fields;
}

struct MalformedIndex {
    const char* what;
    Bytes fields;
    Status status;
};

// A member's entry: bytes shared with the name before, further bytes of the name, these, the type
// (0 blob, 1 BOOL, 2 U8, 6 U16, 12 F32, ...), then the size of a blob, or dimensions.
const MalformedIndex malformed_indexes[] = {
    {"no fields", {}, Status::truncated},
    {"an unknown feature", {0, 2, 0, 0}, Status::unsupported_version},
    {"extras that no version 1.0 has", {0, 0, 1, 7, 0}, Status::bad_header},
    {"more extras than bytes", {1, 0, 99, 7, 0}, Status::truncated},
    {"more members than bytes", {0, 0, 0, 200, 1}, Status::too_large},
    {"a member cut short", members(1, {0, 9, 'a', 2, 0}), Status::truncated},
    {"more of a name than there was", members(1, {1, 1, 'a', 2, 0}), Status::bad_header},
    {"a name that is not UTF-8", members(1, {0, 1, 0xff, 2, 0, 7}), Status::bad_header},
    {"an unknown type", members(1, {0, 1, 'a', 18, 0, 7}), Status::bad_header},
    {"a number in a longer form", members(1, {0, 1, 'a', 2, 0x80, 0, 7}), Status::bad_header},
    {"a size that overflows",
     members(1,
             {0, 1, 'a', 2, 2, 0xff, 0xff, 0xff, 0xff, 0xff, 1, 0xff, 0xff, 0xff, 0xff, 0xff, 1}),
     Status::too_large},
    {"contents that are not there", members(1, {0, 1, 'a', 2, 1, 100, 7}), Status::truncated},
    {"bytes after the contents", members(1, {0, 1, 'a', 2, 0, 7, 0, 0, 0, 0, 0, 0, 0, 0}),
     Status::trailing_bytes},
    {"padding that is not zero", members(1, {0, 1, 'a', 2, 0, 7, 1}), Status::bad_header},
    {"alignment that is not zero", members(1, {0, 1, 'a', 6, 1, 1, 1, 2, 3}), Status::bad_header},
    {"a blob that is none", members(1, {0, 1, 'a', 0, 1, 7}), Status::bad_header},
    {"a blob that does not say so",
     members(1, {0, 6, 'a', '_', 'b', 'l', 'o', 'b', 2, 1, 3, 'T', 'S', 'R'}), Status::bad_header},
    {"a coded text of more than may be", {0, 1, 0, 0xff, 0xff, 0xff, 0x7f, 0}, Status::too_large},
    {"a coded stream cut short", {0, 1, 0, 4, 9, 1}, Status::truncated},
    {"a coded text that the stream does not hold", {0, 1, 0, 100, 0}, Status::truncated},
    {"two members of one name", members(2, {0, 1, 'a', 2, 0, 1, 0, 2, 0, 7, 8}),
     Status::duplicate_name},
};

TEST(FileIndex, NamesWhatIsMalformed) {
    for (const MalformedIndex& m : malformed_indexes) {
        File file;
        const Bytes bytes = file_of_index(m.fields);
        const Result result = File::parse(bytes, file);
        EXPECT_EQ(describe(result.status), describe(m.status)) << m.what;
        EXPECT_LE(result.count, bytes.size()) << m.what;
    }
}

/// The fields of an index of `count` empty U8 tensors whose names share their first `length` bytes.
Bytes fields_of_long_names(std::size_t length, std::size_t count) {
    Bytes fields = {0, 0, 0};
    support::append_varint(count + 1, fields);
    fields.push_back(0);
    support::append_varint(length, fields);
    fields.insert(fields.end(), length, 'a');
    fields.insert(fields.end(), {2, 1, 0});
    for (std::size_t i = 0; i < count; ++i) {
        const std::string rest = std::to_string(i);
        support::append_varint(length, fields);
        support::append_varint(rest.size(), fields);
        fields.insert(fields.end(), rest.begin(), rest.end());
        fields.insert(fields.end(), {2, 1, 0});
    }
    return fields;
}

TEST(FileIndex, NamesTakeNoMoreThanAMultipleOfItsBytes) {
    File file;
    const Bytes long_names = file_of_index(fields_of_long_names(60000, 300));
    EXPECT_EQ(describe(File::parse(long_names, file).status), describe(Status::too_large));
    const Bytes usual = file_of_index(fields_of_long_names(200, 3000));
    EXPECT_TRUE(File::parse(usual, file).ok());
    EXPECT_EQ(file.tensors().size(), 3001U);
    EXPECT_EQ(describe(File::parse(usual, file, 100000).status), describe(Status::too_large));
}

TEST(FileIndex, HoldsTensors) {
    // "abd" U16 [1], "abc" U8 [] and "a" F32 [0]; one byte stands between entries and contents.
    const Bytes bytes = file_of_index(
        members(3, {0, 3, 'a', 'b', 'd', 6, 1, 1, 2, 1, 'c', 2, 0, 1, 0, 12, 1, 0, 0, 1, 2, 3}));
    File file;
    const Result result = File::parse(bytes, file);
    ASSERT_TRUE(result.ok()) << describe(result.status) << " at " << result.count;
    EXPECT_TRUE(file.is_tersor());
    EXPECT_TRUE(file.verify().ok());
    ASSERT_EQ(file.tensors().size(), 3U);
    EXPECT_EQ(file.find("a")->dtype, "F32");
    EXPECT_TRUE(file.find("a")->bytes.empty());
    EXPECT_TRUE(std::ranges::equal(file.find("abd")->bytes, Bytes{1, 2}));
    EXPECT_EQ(file.find("abd")->offset % 2, 0U);
    EXPECT_TRUE(std::ranges::equal(file.find("abc")->bytes, Bytes{3}));
}

// ---- What is coded

/// The fields of an index whose members, `text`, and their contents are coded; then `blobs`.
Bytes coded_fields(Bytes text, Bytes contents, std::size_t width, const Bytes& blobs) {
    Bytes stream;
    contexts::Encoder encoder(stream);
    contexts::ByteModel<contexts::Encoder> model(encoder);
    (void)model.code_text(text);
    (void)model.code_elements(contents, width);
    encoder.finish();
    Bytes fields = {0, 1, 0};
    support::append_varint(text.size(), fields);
    support::append_varint(stream.size(), fields);
    fields.insert(fields.end(), stream.begin(), stream.end());
    fields.insert(fields.end(), blobs.begin(), blobs.end());
    return fields;
}

TEST(FileIndex, HoldsCodedTensors) {
    const Bytes blob = {'T', 'S', 'R', 1};
    // "a" F32 [2], "b" a blob.
    const Bytes text = {2, 0, 1, 'a', 12, 1, 2, 0, 1, 'b', 0, 4};
    const Bytes contents = {1, 2, 3, 4, 5, 6, 7, 8};
    const Bytes bytes = file_of_index(coded_fields(text, contents, 4, blob));
    File file;
    const Result result = File::parse(bytes, file);
    ASSERT_TRUE(result.ok()) << describe(result.status) << " at " << result.count;
    EXPECT_TRUE(file.verify().ok());
    ASSERT_EQ(file.tensors().size(), 2U);
    EXPECT_TRUE(std::ranges::equal(file.find("a")->bytes, contents));
    EXPECT_TRUE(std::ranges::equal(file.find("b_blob")->bytes, blob));
    EXPECT_TRUE(file.find("b_blob")->compressed);
    const File moved = std::move(file);  // what is decoded stays where it is
    EXPECT_TRUE(std::ranges::equal(moved.find("a")->bytes, contents));
}

TEST(FileIndex, NamesWhatIsMalformedInCodedEntries) {
    const auto status = [](const Bytes& text, const Bytes& blobs = {}) {
        File file;
        const Bytes bytes = file_of_index(coded_fields(text, {}, 1, blobs));
        const Result result = File::parse(bytes, file);
        EXPECT_LE(result.count, bytes.size());
        return result.status;
    };
    EXPECT_EQ(status({0}), Status::ok);
    EXPECT_EQ(status({1, 0, 1, 'a', 2, 1, 0}), Status::ok);  // U8 [0]
    EXPECT_EQ(status({1, 0, 1, 'a', 18, 1, 0}), Status::bad_header);
    EXPECT_EQ(status({0, 7}), Status::trailing_bytes);
    EXPECT_EQ(status({1, 0, 1, 'a', 2, 1}), Status::truncated);
    EXPECT_EQ(status({1, 0, 1, 'a', 2, 1, 100}), Status::truncated);  // contents the stream lacks
    EXPECT_EQ(status({1, 0, 1, 'a', 2, 1, 0xff, 0xff, 0xff, 1}), Status::too_large);
    EXPECT_EQ(status({1, 0, 1, 'a', 0, 9}, {'T', 'S', 'R'}), Status::truncated);
    EXPECT_EQ(status({1, 0, 1, 'a', 0, 3}, {'T', 'S', 'X'}), Status::bad_header);
    EXPECT_EQ(status({0}, Bytes(9)), Status::trailing_bytes);
}

TEST(FileIndex, PassesOverWhatALaterMinorVersionAdds) {
    File file;
    EXPECT_TRUE(File::parse(file_of_index({1, 0, 2, 7, 7, 0}), file).ok());
}

TEST(FileIndex, KnowsTheTensorsBesideIt) {
    Bytes fields = {0, 0, 0};
    support::append_little_endian(hash::xxh3_64(Bytes{1, 2, 3, 4}), fields);
    fields.push_back(0);
    Bytes bytes;  // outlives the file
    File file;
    const auto parse = [&](const Bytes& data) {
        const std::string size = std::to_string(13 + fields.size() + 8);
        const std::string end = std::to_string(13 + fields.size() + 8 + data.size());
        bytes =
            file_of_index(fields, R"(,"a":)" + entry("[4]", "[" + size + "," + end + "]"), data);
        return File::parse(bytes, file);
    };
    ASSERT_TRUE(parse({1, 2, 3, 4}).ok());
    EXPECT_TRUE(file.verify().ok());
    ASSERT_TRUE(parse({1, 2, 3, 5}).ok());
    EXPECT_EQ(file.verify().status, Status::hash_mismatch);
    fields.back() = 1;  // a member of the same name
    for (const std::uint8_t byte : {0, 1, int{'a'}, 2, 0, 9}) fields.push_back(byte);
    EXPECT_EQ(parse({1, 2, 3, 4}).status, Status::duplicate_name);
}

}  // namespace
}  // namespace tersor
