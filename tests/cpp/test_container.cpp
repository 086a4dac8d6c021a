#include "tersor/container.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <stdexcept>
#include <system_error>

#include "container/index.hpp"
#include "container/json.hpp"
#include "container/tensor_types.hpp"
#include "hash/xxh3.hpp"
#include "support/little_endian.hpp"
#include "support/varint.hpp"

namespace tersor {
namespace {

using Bytes = std::vector<std::uint8_t>;

struct Dtype {
    const char* name;
    std::size_t bytes;
};
constexpr Dtype dtypes[] = {{"BOOL", 1}, {"U8", 1},     {"I8", 1},  {"F8_E4M3", 1}, {"F8_E5M2", 1},
                            {"U16", 2},  {"I16", 2},    {"F16", 2}, {"BF16", 2},    {"U32", 4},
                            {"I32", 4},  {"F32", 4},    {"U64", 8}, {"I64", 8},     {"F64", 8},
                            {"C64", 8},  {"F8_E8M0", 1}};

Bytes small_blob() {
    const std::vector<std::uint8_t> codes = {0, 1, 0, 2, 0, 0};
    return encode_layer(
        {{2, 3}, ValueKind::shared_fp32, csr::encode(codes, 2, 3, 2), {0.5F, -1.0F}});
}

/// A folder of the test's own that goes with it.
class FileTest : public ::testing::Test {
protected:
    FileTest() {
        folder_ = std::filesystem::path(::testing::TempDir()) /
                  (std::string("tersor_") +
                   ::testing::UnitTest::GetInstance()->current_test_info()->name());
        std::filesystem::remove_all(folder_);
        std::filesystem::create_directories(folder_);
    }
    ~FileTest() override { std::filesystem::remove_all(folder_); }

    [[nodiscard]] std::string path(const char* name = "f") const {
        return (folder_ / name).string();
    }
    [[nodiscard]] static Bytes read(const std::string& path) {
        std::ifstream stream(path, std::ios::binary);
        return {std::istreambuf_iterator<char>(stream), std::istreambuf_iterator<char>()};
    }
    [[nodiscard]] std::size_t files() const {
        return static_cast<std::size_t>(
            std::distance(std::filesystem::directory_iterator(folder_), {}));
    }
    /// A blob and an ordinary tensor, written; what stands in the file.
    [[nodiscard]] Bytes write_small() const {
        const Bytes blob = small_blob();
        const Bytes bias = {1, 2, 3, 4, 5, 6, 7, 8};
        const std::vector<TensorToWrite> tensors = {{"w_blob", "U8", {blob.size()}, blob},
                                                    {"b", "F32", {2}, bias}};
        write_file(path(), tensors, {{"made by", "a \"test\"\n\x01"}});
        return read(path());
    }

    std::filesystem::path folder_;
};

TEST_F(FileTest, EveryDtypeRoundTripsThroughTheMapping) {
    std::vector<Bytes> contents;
    std::vector<TensorToWrite> tensors;
    for (const std::uint64_t cols : {3U, 3001U}) {  // inside the index, and beside it
        for (const Dtype& dtype : dtypes) {
            Bytes& bytes = contents.emplace_back(2 * cols * dtype.bytes);
            for (std::size_t i = 0; i < bytes.size(); ++i) {
                bytes[i] = static_cast<std::uint8_t>(contents.size() + 37 * i);
            }
            tensors.push_back({dtype.name + std::to_string(cols), dtype.name, {2, cols}, bytes});
        }
    }
    tensors.push_back({"empty", "F32", {4, 0}, {}});
    tensors.push_back({"scalar", "U8", {}, std::span(contents[0]).first(1)});
    tensors.push_back({"\xc3\xbc \"\\\x01", "U8", {1}, std::span(contents[0]).first(1)});
    write_file(path(), tensors);

    File file;
    const Result opened = File::open(path(), file);
    ASSERT_TRUE(opened.ok()) << describe(opened.status);
    EXPECT_TRUE(file.is_tersor());
    EXPECT_TRUE(file.verify().ok());
    EXPECT_EQ(file.file_bytes(), std::filesystem::file_size(path()));
    ASSERT_EQ(file.tensors().size(), tensors.size());
    for (const TensorToWrite& tensor : tensors) {
        const TensorView* view = file.find(tensor.name);
        ASSERT_NE(view, nullptr) << tensor.name;
        EXPECT_EQ(view->name, tensor.name);
        EXPECT_EQ(view->dtype, tensor.dtype);
        EXPECT_EQ(view->shape, tensor.shape);
        EXPECT_FALSE(view->compressed);
        EXPECT_TRUE(std::ranges::equal(view->bytes, tensor.bytes)) << tensor.name;
        EXPECT_EQ(view->offset % container::element_bytes(tensor.dtype), 0) << tensor.name;
        EXPECT_TRUE(file.verify(*view).ok());
    }
    EXPECT_EQ(file.find("F31"), nullptr);
    EXPECT_EQ(file.find(""), nullptr);
}

TEST_F(FileTest, ParsesFromMemoryWhatItMaps) {
    const Bytes bytes = write_small();
    File mapped;
    File parsed;
    ASSERT_TRUE(File::open(path(), mapped).ok());
    const Result result = File::parse(bytes, parsed);
    ASSERT_TRUE(result.ok());
    EXPECT_EQ(result.count, bytes.size());
    EXPECT_EQ(parsed.metadata(), mapped.metadata());
    EXPECT_EQ(parsed.metadata()[0].second, "a \"test\"\n\x01");
    const TensorView* blob = parsed.find("w_blob");
    ASSERT_NE(blob, nullptr);
    EXPECT_TRUE(blob->compressed);
    EXPECT_TRUE(std::ranges::equal(blob->bytes, small_blob()));
    EXPECT_EQ(blob->bytes.data(), bytes.data() + blob->offset);

    std::filesystem::remove(path());  // the mapping outlives the name, and a move of the File
    const File moved = std::move(mapped);
    EXPECT_TRUE(moved.verify().ok());
    EXPECT_TRUE(std::ranges::equal(moved.find("w_blob")->bytes, small_blob()));
}

TEST_F(FileTest, TheSameInputGivesTheSameBytes) {
    const Bytes first = write_small();
    std::filesystem::remove(path());
    EXPECT_EQ(write_small(), first);
}

TEST_F(FileTest, ManyNamesAreFoundAtOnce) {
    // So many that look-ups which go through all the names make the suite slow.
    constexpr std::size_t count = 50000;
    std::vector<TensorToWrite> tensors;
    const Bytes blob = small_blob();
    for (std::size_t i = 0; i < count; ++i) {
        tensors.push_back(
            {std::to_string(i) + (i % 2 == 0 ? "_blob" : ""), "U8", {blob.size()}, blob});
    }
    write_file(path(), tensors);
    File file;
    ASSERT_TRUE(File::open(path(), file).ok());
    EXPECT_TRUE(file.verify().ok());
    std::size_t compressed = 0;
    for (const TensorToWrite& tensor : tensors) {
        const TensorView* view = file.find(tensor.name);
        ASSERT_NE(view, nullptr);
        compressed += view->compressed ? 1 : 0;
    }
    EXPECT_EQ(compressed, count / 2);
}

TEST_F(FileTest, EveryTruncationIsAnError) {
    const Bytes bytes = write_small();
    File file;
    for (std::size_t size = 0; size < bytes.size(); ++size) {
        const Result result = File::parse(std::span(bytes).first(size), file);
        EXPECT_FALSE(result.ok()) << size;
        EXPECT_LE(result.count, bytes.size());
    }
    Bytes longer = bytes;
    longer.push_back(0);
    EXPECT_EQ(File::parse(longer, file).status, Status::trailing_bytes);
}

TEST_F(FileTest, AFileThatIsNotThereIsAnError) {
    File file;
    EXPECT_EQ(File::open(path("none"), file).status, Status::io_error);
    EXPECT_EQ(File::open(folder_.string(), file).status, Status::io_error);
    std::ofstream(path("empty")).close();
    EXPECT_EQ(File::open(path("empty"), file).status, Status::truncated);
}

// ---- Headers that are malformed

Bytes file_of(const std::string& header, std::size_t data_bytes = 0) {
    Bytes bytes;
    support::append_little_endian(std::uint64_t{header.size()}, bytes);
    bytes.insert(bytes.end(), header.begin(), header.end());
    bytes.resize(bytes.size() + data_bytes);
    return bytes;
}

std::string entry(const std::string& shape, const std::string& offsets,
                  const std::string& dtype = "U8") {
    return R"({"dtype":")" + dtype + R"(","shape":)" + shape + R"(,"data_offsets":)" + offsets +
           "}";
}

struct Malformed {
    const char* what;
    std::string header;
    std::size_t data_bytes;
    Status status;
};

std::string nested(std::size_t levels) {
    return std::string(levels, '[') + "1" + std::string(levels, ']');
}

const Malformed malformed[] = {
    {"a hole before", R"({"a":)" + entry("[3]", "[1,4]") + "}", 4, Status::overlapping_tensors},
    {"a hole between",
     R"({"a":)" + entry("[1]", "[0,1]") + R"(,"b":)" + entry("[2]", "[2,4]") + "}", 4,
     Status::overlapping_tensors},
    {"overlap", R"({"a":)" + entry("[3]", "[0,3]") + R"(,"b":)" + entry("[2]", "[2,4]") + "}", 4,
     Status::overlapping_tensors},
    {"twice the same bytes",
     R"({"a":)" + entry("[4]", "[0,4]") + R"(,"b":)" + entry("[4]", "[0,4]") + "}", 4,
     Status::overlapping_tensors},
    {"an empty tensor in the middle of another",
     R"({"a":)" + entry("[4]", "[0,4]") + R"(,"b":)" + entry("[0]", "[2,2]") + "}", 4,
     Status::overlapping_tensors},
    {"bytes after the last", R"({"a":)" + entry("[3]", "[0,3]") + "}", 4, Status::trailing_bytes},
    {"bytes without tensors", "{}", 1, Status::trailing_bytes},
    {"past the end", R"({"a":)" + entry("[5]", "[0,5]") + "}", 4, Status::truncated},
    {"backwards", R"({"a":)" + entry("[0]", "[4,0]") + "}", 4, Status::size_mismatch},
    {"another size", R"({"a":)" + entry("[5]", "[0,4]") + "}", 4, Status::size_mismatch},
    {"another element size", R"({"a":)" + entry("[4]", "[0,4]", "F32") + "}", 4,
     Status::size_mismatch},
    {"an unknown dtype", R"({"a":)" + entry("[4]", "[0,4]", "I4") + "}", 4, Status::bad_header},
    {"a shape that overflows", R"({"a":)" + entry("[4294967296,4294967296]", "[0,4]") + "}", 4,
     Status::too_large},
    {"a size that overflows", R"({"a":)" + entry("[4611686018427387904]", "[0,4]", "F64") + "}", 4,
     Status::too_large},
    {"a number that overflows", R"({"a":)" + entry("[18446744073709551616]", "[0,4]") + "}", 4,
     Status::too_large},
    {"three offsets", R"({"a":)" + entry("[4]", "[0,4,4]") + "}", 4, Status::bad_json},
    {"a shape that is a number", R"({"a":)" + entry("4", "[0,4]") + "}", 4, Status::bad_json},
    {"a shape of strings", R"({"a":)" + entry(R"(["4"])", "[0,4]") + "}", 4, Status::bad_json},
    {"a negative dimension", R"({"a":)" + entry("[-4]", "[0,4]") + "}", 4, Status::bad_json},
    {"a fraction", R"({"a":)" + entry("[4.0]", "[0,4]") + "}", 4, Status::bad_json},
    {"a leading zero", R"({"a":)" + entry("[04]", "[0,4]") + "}", 4, Status::bad_json},
    {"no dtype", R"({"a":{"shape":[4],"data_offsets":[0,4]}})", 4, Status::bad_json},
    {"a further member", R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4],"x":1}})", 4,
     Status::bad_json},
    {"a tensor that is no object", R"({"a":1})", 0, Status::bad_json},
    {"metadata that is no object", R"({"__metadata__":[]})", 0, Status::bad_json},
    {"metadata that is no string", R"({"__metadata__":{"a":1}})", 0, Status::bad_json},
    {"two tensors of one name",
     R"({"a":)" + entry("[2]", "[0,2]") + R"(,"a":)" + entry("[2]", "[2,4]") + "}", 4,
     Status::duplicate_name},
    {"one name in two spellings",
     R"({"a":)" + entry("[2]", "[0,2]") + R"(,"\u0061":)" + entry("[2]", "[2,4]") + "}", 4,
     Status::duplicate_name},
    {"two members of one name", R"({"__metadata__":{"a":"1","a":"2"}})", 0, Status::duplicate_name},
    {"nine levels", R"({"a":)" + nested(8) + "}", 0, Status::bad_json},
    {"a hundred thousand levels", R"({"a":)" + nested(100000) + "}", 0, Status::bad_json},
    {"no JSON", "{'a':1}", 0, Status::bad_json},
    {"an open object", R"({"a":)", 0, Status::bad_json},
    {"an open string", R"({"a)", 0, Status::truncated},
    {"two values", "{}{}", 0, Status::bad_json},
    {"a trailing comma", R"({"__metadata__":{"a":"b",}})", 0, Status::bad_json},
    {"a control character", "{\"a\n\":1}", 0, Status::bad_json},
    {"a broken escape", R"({"\x":1})", 0, Status::bad_json},
    {"half a surrogate pair", R"({"\ud800":1})", 0, Status::bad_json},
    {"a byte that is not UTF-8", "{\"\xff\":1}", 0, Status::bad_json},
    {"over-long UTF-8", "{\"\xc0\x80\":1}", 0, Status::bad_json},
    {"an array", "[]", 0, Status::bad_magic},
    {"no header", "", 0, Status::bad_magic},
};

TEST(FileParse, NamesWhatIsMalformed) {
    for (const Malformed& m : malformed) {
        File file;
        const Bytes bytes = file_of(m.header, m.data_bytes);
        const Result result = File::parse(bytes, file);
        EXPECT_EQ(describe(result.status), describe(m.status)) << m.what;
        EXPECT_LE(result.count, bytes.size()) << m.what;
    }
}

TEST(FileParse, AHeaderTakesNoMoreThanAMultipleOfItsBytes) {
    std::string elements;
    for (int i = 0; i < 100000; ++i) elements += "[],";
    File file;
    const Bytes bytes = file_of(R"({"a":[)" + elements + "[]]}");
    const Result result = File::parse(bytes, file);
    EXPECT_EQ(describe(result.status), describe(Status::too_large));
    EXPECT_LT(result.count, bytes.size());
}

TEST(FileParse, MaxBytesBoundsWhatIsListed) {
    std::string header = R"({"__metadata__":{"a":"b","c":"d"})";
    for (int i = 0; i < 1000; ++i)
        header += ",\"" + std::to_string(i) + "\":" + entry("[0]", "[0,0]");
    const Bytes bytes = file_of(header + "}");
    File file;
    EXPECT_TRUE(File::parse(bytes, file).ok());
    EXPECT_EQ(file.tensors().size(), 1000U);
    const Result result = File::parse(bytes, file, 20000);
    EXPECT_EQ(describe(result.status), describe(Status::too_large));
    EXPECT_GT(result.count, 8U);
    EXPECT_LT(result.count, 5000U);
}

TEST(FileParse, TheShortestMetadataIsNotTooMuch) {
    std::string header = R"({"__metadata__":{"":"")";
    for (int i = 0; i < 2000; ++i) header += ",\"" + std::to_string(i) + "\":\"\"";
    File file;
    const Result result = File::parse(file_of(header + "}}"), file);
    EXPECT_TRUE(result.ok()) << describe(result.status) << " at " << result.count;
}

// ---- The index

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
    {"an unknown feature", {0, 1, 0, 0}, Status::unsupported_version},
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

TEST_F(FileTest, AWriterRefusesNamesThatAReaderWould) {
    std::vector<TensorToWrite> tensors;
    for (int i = 0; i < 300; ++i) {
        tensors.push_back({std::string(60000, 'a') + std::to_string(i), "U8", {0}, {}});
    }
    EXPECT_THROW(write_file(path(), tensors), std::invalid_argument);
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

TEST_F(FileTest, DamageDoesNotMakeItAFileOfAnotherWriter) {
    const Bytes bytes = write_small();
    const auto status_with = [&](std::string_view from, std::string_view to) {
        Bytes damaged = bytes;
        const auto found = std::search(damaged.begin(), damaged.end(), from.begin(), from.end());
        EXPECT_NE(found, damaged.end());
        std::ranges::copy(to, found);
        File file;
        return File::parse(damaged, file).status;
    };
    EXPECT_EQ(status_with("tersor", "tensor"), Status::bad_magic);
    EXPECT_EQ(status_with("TERS", "TENS"), Status::bad_magic);
    EXPECT_EQ(status_with("TERS\x01", "TERS\x02"), Status::unsupported_version);
    EXPECT_EQ(status_with("made by", "Made by"), Status::hash_mismatch);  // metadata too
    EXPECT_EQ(status_with(R"("U8")", R"("I8")"), Status::bad_header);
}

TEST(FileParse, TakesTensorsInAnyOrderOfTheHeader) {
    const Bytes bytes =
        file_of(R"({"b":)" + entry("[1]", "[3,4]") + R"(,"e":)" + entry("[0]", "[3,3]") +
                    R"(,"a":)" + entry("[3]", "[0,3]") + "}  ",
                4);
    File file;
    ASSERT_TRUE(File::parse(bytes, file).ok());
    EXPECT_FALSE(file.is_tersor());
    ASSERT_EQ(file.tensors().size(), 3U);
    EXPECT_EQ(file.tensors()[0].name, "a");
    EXPECT_EQ(file.tensors()[1].name, "b");
    EXPECT_EQ(file.tensors()[2].name, "e");
}

TEST(FileParse, BelievesNoHeaderLengthThatTheFileCannotBack) {
    for (const auto& [length, status] : {std::pair{std::uint64_t{3}, Status::truncated},
                                         {container::max_header_bytes, Status::truncated},
                                         {container::max_header_bytes + 1, Status::too_large},
                                         {~std::uint64_t{0}, Status::too_large}}) {
        Bytes bytes = file_of("{}");
        Bytes announced;
        support::append_little_endian(length, announced);
        std::ranges::copy(announced, bytes.begin());
        File file;
        EXPECT_EQ(File::parse(bytes, file).status, status) << length;
    }
}

TEST(Json, NestsEightLevelsAndNoMore) {
    container::JsonValue value;
    EXPECT_TRUE(container::parse_json(nested(8), value).ok());
    EXPECT_TRUE(container::parse_json(std::string(8, '[') + std::string(8, ']'), value).ok());
    EXPECT_FALSE(container::parse_json(nested(9), value).ok());
    EXPECT_FALSE(container::parse_json(std::string(9, '[') + std::string(9, ']'), value).ok());
}

// ---- The writer refuses what the reader would

TEST_F(FileTest, WhatAReaderWouldRefuseIsNeverWritten) {
    const Bytes before = write_small();
    const Bytes four(4);
    const TensorToWrite good{"a", "U8", {4}, four};
    const auto refuses = [&](std::vector<TensorToWrite> tensors, const Metadata& metadata = {}) {
        EXPECT_THROW(write_file(path(), tensors, metadata), std::invalid_argument);
        EXPECT_EQ(read(path()), before);
        EXPECT_EQ(files(), 1U);
    };
    refuses({good, good});
    refuses({{"__metadata__", "U8", {4}, four}});
    refuses({{"a", "I4", {4}, four}});
    refuses({{"a", "F32", {2}, four}});
    refuses({{"a", "U8", {std::uint64_t{1} << 33, std::uint64_t{1} << 33}, four}});
    refuses({{"\xff", "U8", {4}, four}});
    refuses({{"\xed\xa0\x80", "U8", {4}, four}});  // half a surrogate pair
    refuses({good}, {{"k", "1"}, {"k", "2"}});
    refuses({{"tersor", "U8", {4}, four}});
    refuses({good}, {{"\xc0\x80", "1"}});
    refuses({good}, {{"k", "cut short \xe2\x82"}});
    refuses({good}, {{"k", std::string(container::max_header_bytes, ' ')}});
}

TEST_F(FileTest, WhatTheSystemRefusesLeavesNothingBehind) {
    const Bytes before = write_small();
    EXPECT_THROW(write_file(path("none/f"), {}), std::system_error);
    std::filesystem::create_directory(path("folder"));
    std::ofstream(path("folder/x")).close();
    EXPECT_THROW(write_file(path("folder"), {}), std::system_error);  // at the rename itself
    EXPECT_EQ(read(path()), before);
    EXPECT_EQ(files(), 2U);
    write_file(path(), {});  // and an old file is replaced
    File file;
    ASSERT_TRUE(File::open(path(), file).ok());
    EXPECT_TRUE(file.tensors().empty());
    EXPECT_EQ(files(), 2U);
}

}  // namespace
}  // namespace tersor
