#include "tersor/container.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <stdexcept>
#include <system_error>

#include "container/json.hpp"
#include "container/tensor_types.hpp"
#include "header_problem.hpp"
#include "support/little_endian.hpp"

namespace tersor {
namespace {

using namespace test;

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

struct Malformed {
    const char* what;
    std::string header;
    std::size_t data_bytes;
    Status status;
};

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

TEST_F(FileTest, AWriterRefusesNamesThatAReaderWould) {
    std::vector<TensorToWrite> tensors;
    for (int i = 0; i < 300; ++i) {
        tensors.push_back({std::string(60000, 'a') + std::to_string(i), "U8", {0}, {}});
    }
    EXPECT_THROW(write_file(path(), tensors), std::invalid_argument);
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
