#include "tersor/container.hpp"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <stdexcept>
#include <system_error>

#include "container/json.hpp"
#include "container/tensor_types.hpp"

namespace tersor {
namespace {

using Bytes = std::vector<std::uint8_t>;

struct Dtype {
    const char* name;
    std::size_t bytes;
};
constexpr Dtype dtypes[] = {{"BOOL", 1},    {"U8", 1},  {"I8", 1},  {"F8_E4M3", 1},
                            {"F8_E5M2", 1}, {"U16", 2}, {"I16", 2}, {"F16", 2},
                            {"BF16", 2},    {"U32", 4}, {"I32", 4}, {"F32", 4},
                            {"U64", 8},     {"I64", 8}, {"F64", 8}, {"C64", 8}};

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
    for (const Dtype& dtype : dtypes) {
        Bytes& bytes = contents.emplace_back(6 * dtype.bytes);
        for (std::size_t i = 0; i < bytes.size(); ++i) {
            bytes[i] = static_cast<std::uint8_t>(contents.size() + 37 * i);
        }
        tensors.push_back({std::string("t.") + dtype.name, dtype.name, {2, 3}, bytes});
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
    EXPECT_EQ(file.find("t.F31"), nullptr);
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

TEST_F(FileTest, EveryFlippedBitOfTheTensorsFailsItsHash) {
    const Bytes bytes = write_small();
    const std::size_t begin = 8 + support::load_little_endian<std::uint64_t>(bytes.data());
    for (std::size_t bit = begin * 8; bit < bytes.size() * 8; ++bit) {
        Bytes damaged = bytes;
        damaged[bit / 8] = static_cast<std::uint8_t>(damaged[bit / 8] ^ (1U << (bit % 8)));
        File file;
        EXPECT_FALSE(File::parse(damaged, file).ok() && file.verify().ok()) << bit;
    }
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

/// A header whose metadata of the library's own is `text`, followed by `tensors`.
std::string with_own(const std::string& text, const std::string& tensors = "") {
    std::string header = R"({"__metadata__":{"tersor":)";
    container::append_json_string(text, header);
    return header + "}" + (tensors.empty() ? "" : "," + tensors) + "}";
}

std::string own(const std::string& layers, const std::string& hashes) {
    return R"({"version":0,"features":[],"layers":)" + layers + R"(,"hashes":)" + hashes + "}";
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
    {"a later version", with_own(R"({"version":1,"features":[],"layers":[],"hashes":{}})"), 0,
     Status::unsupported_version},
    {"an unknown feature", with_own(R"({"version":0,"features":["x"],"layers":[],"hashes":{}})"), 0,
     Status::unsupported_version},
    {"own metadata that is no JSON", with_own("x"), 0, Status::bad_json},
    {"own metadata without hashes", with_own(R"({"version":0,"features":[],"layers":[]})"), 0,
     Status::bad_header},
    {"a hash that is a number", with_own(own("[]", R"({"a":1})")), 0, Status::bad_header},
    {"a layer that is a number", with_own(own("[1]", "{}")), 0, Status::bad_header},
    {"a layer that is not there", with_own(own(R"(["a"])", "{}")), 0, Status::bad_header},
    {"a layer that is no blob",
     with_own(own(R"(["a"])", "{}"), R"("a_blob":)" + entry("[4]", "[0,4]")), 4,
     Status::bad_header},
    {"a tensor without a hash", with_own(own("[]", "{}"), R"("a":)" + entry("[4]", "[0,4]")), 4,
     Status::bad_header},
    {"a hash without a tensor", with_own(own("[]", R"({"a":"0"})")), 0, Status::bad_header},
    {"as many hashes, of other names",
     with_own(own("[]", R"({"b":"0"})"), R"("a":)" + entry("[4]", "[0,4]")), 4, Status::bad_header},
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

TEST(FileParse, TakesTensorsInAnyOrderOfTheHeader) {
    const Bytes bytes =
        file_of(R"({"b":)" + entry("[1]", "[3,4]") + R"(,"e":)" + entry("[0]", "[3,3]") +
                    R"(,"a":)" + entry("[3]", "[0,3]") + "}  ",
                4);
    File file;
    ASSERT_TRUE(File::parse(bytes, file).ok());
    EXPECT_FALSE(file.is_tersor());
    EXPECT_EQ(file.tensors().front().name, "a");
    EXPECT_EQ(file.tensors().back().name, "b");
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
    refuses({good}, {{"tersor", "{}"}});
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
