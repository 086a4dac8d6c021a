// The committed files of every released version of the format: they load forever, to the same
// contents on every instruction set, and what is written today is what was written then. After a
// change of the version, TERSOR_WRITE_GOLDEN=FOLDER writes its files.
#include <bit>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>

#include "isa_test.hpp"
#include "tersor/container.hpp"
#include "tersor/huffman.hpp"
#include "tersor/lossless.hpp"

namespace tersor {
namespace {

using Bytes = std::vector<std::uint8_t>;

/// Numbers that are the same everywhere and always (Knuth, The Art of Computer Programming 3.3.4).
class Numbers {
public:
    std::uint32_t next() noexcept {
        state_ = state_ * 6364136223846793005U + 1442695040888963407U;
        return static_cast<std::uint32_t>(state_ >> 33);
    }

private:
    std::uint64_t state_ = 1;
};

/// `size` symbols: one in `one_in` is not zero, and small ones are more frequent.
Bytes skewed(std::size_t size, unsigned one_in, unsigned largest) {
    Numbers numbers;
    Bytes symbols(size);
    for (auto& symbol : symbols) {
        if (numbers.next() % one_in != 0) continue;
        const std::uint32_t bound = 1 + numbers.next() % largest;
        symbol = static_cast<std::uint8_t>(1 + numbers.next() % bound);
    }
    return symbols;
}

// ---- Streams of each kind, by the kind's place in docs/format.md

struct Stream {
    const char* name;
    std::uint8_t kind;
    Bytes symbols;
};

std::vector<Stream> streams() {
    Bytes all(512);
    for (std::size_t i = 0; i < all.size(); ++i) all[i] = static_cast<std::uint8_t>(i * 7);
    return {{"constant", 0, Bytes(1000, 7)},
            {"stored", 1, all},
            {"words", 2, skewed(5000, 2, 200)},
            {"planes", 3, skewed(20000, 1, 15)},
            {"planes, wide", 3, skewed(20001, 1, 250)},
            {"planes, blocks", 3, skewed(140000, 4, 30)},
            {"pairs", 4, skewed(140001, 12, 7)}};
}

// ---- Layers of each kind

Layer layer(std::vector<std::uint64_t> shape, ValueKind kind, bool flat, unsigned largest) {
    std::uint32_t cols = 1;
    for (std::size_t d = 1; d < shape.size(); ++d) cols *= static_cast<std::uint32_t>(shape[d]);
    const auto rows = static_cast<std::uint32_t>(shape[0]);
    const Bytes codes = skewed(std::size_t{rows} * cols, 6, is_shared(kind) ? largest : 1);
    Layer made{std::move(shape), kind, csr::encode(codes, rows, cols, 3, flat), {}};
    const std::size_t count = is_shared(kind) ? largest : csr::validate(made.csr).count;
    for (std::size_t i = 0; i < count; ++i) {
        made.values.push_back((static_cast<float>(i) - 9.5F) / 8);
    }
    return made;
}

std::vector<std::pair<std::string, Layer>> layers() {
    std::vector<std::pair<std::string, Layer>> all;
    constexpr const char* kinds[] = {"shared fp32", "shared fp16", "plain fp32", "plain fp16"};
    for (int kind = 0; kind < 4; ++kind) {
        for (const bool flat : {false, true}) {
            all.emplace_back(std::string(kinds[kind]) + (flat ? ", flat" : ", rows"),
                             layer({12, 3, 5}, static_cast<ValueKind>(kind), flat, 9));
        }
    }
    all.emplace_back("vector", layer({300}, ValueKind::shared_fp16, true, 20));
    all.emplace_back("large", layer({500, 400}, ValueKind::shared_fp32, false, 15));
    all.emplace_back("nothing", layer({0, 7}, ValueKind::shared_fp32, false, 0));
    return all;
}

/// Layers with factors, of version 1.1: rows on a grid of quarter octaves, input channels as fp16,
/// columns as fp32.
std::vector<std::pair<std::string, Layer>> layers_with_factors() {
    std::vector<std::pair<std::string, Layer>> all;
    const std::vector<float> grid = {1.0F, 1.18920708F, 1.41421354F, 1.68179286F};
    for (const char* name : {"rows", "channels", "both"}) {
        Layer made = layer({12, 3, 5}, ValueKind::shared_fp32, false, 9);
        const std::string which = name;
        for (std::size_t r = 0; which != "channels" && r < 12; ++r) {
            made.row_factors.push_back(grid[r % 4] / static_cast<float>(1U << r));
        }
        for (std::size_t k = 0; which != "rows" && k < 15; ++k) {
            const std::size_t distinct = which == "channels" ? k / 5 : k;
            made.column_factors.push_back(which == "channels"
                                              ? 0.75F - static_cast<float>(distinct)
                                              : 0.1F * static_cast<float>(distinct + 1));
        }
        all.emplace_back(name, std::move(made));
    }
    return all;
}

/// Layers with contexts, of version 1.3: by rows and flat, as filters, matrix and vector.
std::vector<std::pair<std::string, Layer>> layers_with_contexts() {
    std::vector<std::pair<std::string, Layer>> all;
    all.emplace_back("filters", layer({12, 3, 5, 5}, ValueKind::shared_fp32, false, 9));
    all.emplace_back("matrix", layer({50, 400}, ValueKind::shared_fp16, true, 255));
    all.emplace_back("vector", layer({300}, ValueKind::shared_fp16, true, 20));
    all.emplace_back("one value", layer({40, 30}, ValueKind::shared_fp32, false, 1));
    all.emplace_back("nothing", layer({0, 7}, ValueKind::shared_fp32, false, 0));
    all.emplace_back("factors", layers_with_factors().back().second);
    for (auto& [name, content] : all) content.entropy = Entropy::smallest;
    return all;
}

// ---- Tensors without loss

struct Tensor {
    std::string name;  // what its fields are
    std::string dtype;
    std::vector<std::uint64_t> shape;
    Bytes bytes;
};

/// Elements whose highest byte is near `top`; the others have all values, or `low` where given.
Bytes elements(std::size_t count, std::size_t width, unsigned top, int low = -1) {
    Numbers numbers;
    Bytes bytes(count * width);
    for (std::size_t i = 0; i < bytes.size(); ++i) {
        const std::uint32_t number = numbers.next();
        const bool is_top = i % width == width - 1;
        const auto below = static_cast<unsigned>(std::countr_zero(number | 64U));
        bytes[i] = static_cast<std::uint8_t>(is_top     ? top - below + (number >> 24 & 0x80U)
                                             : low >= 0 ? static_cast<unsigned>(low)
                                                        : number >> 8);
    }
    return bytes;
}

std::vector<Tensor> tensors() {
    return {{"plain", "F32", {3, 1}, elements(3, 4, 0x3d)},
            {"words", "BF16", {20, 30}, elements(600, 2, 0x3d)},
            {"sliced", "BF16", {20000}, elements(20000, 2, 0x3d)},
            {"blocks", "F8_E4M3", {140000}, elements(140000, 1, 0x3d)},
            {"constant bytes", "F32", {5000}, elements(5000, 4, 0x3d, 0)},
            {"constant", "I64", {1000, 1000}, Bytes(8000000, 3)},
            {"half", "F16", {4000}, elements(4000, 2, 0x2d)},
            {"integers", "I32", {700}, elements(700, 4, 0xff, 0xff)},
            {"pairs", "BOOL", {17000}, skewed(17000, 12, 1)},
            {"scalar", "F64", {}, elements(1, 8, 0x3d)},
            {"empty", "F32", {3, 0}, {}}};
}

// ---- Files

/// The files of a version: name, writer.
using Writer = std::function<void(const std::string& path)>;

void write_streams(const std::string& path) {
    std::vector<Bytes> encoded;
    for (const Stream& stream : streams()) encoded.push_back(huffman::encode(stream.symbols));
    std::vector<TensorToWrite> tensors;
    std::size_t i = 0;
    for (const Stream& stream : streams()) {
        tensors.push_back({stream.name, "U8", {encoded[i].size()}, encoded[i]});
        ++i;
    }
    write_file(path, tensors);
}

void write_blobs(const std::string& path, const std::vector<std::pair<std::string, Layer>>& all) {
    std::vector<Bytes> blobs;
    std::vector<TensorToWrite> tensors;
    for (const auto& [name, content] : all) blobs.push_back(encode_layer(content));
    for (std::size_t i = 0; i < all.size(); ++i) {
        std::string name = all[i].first;
        name += blob_suffix;
        tensors.push_back({std::move(name), "U8", {blobs[i].size()}, blobs[i]});
    }
    write_file(path, tensors, {{"made by", "a test"}, {"\xc3\xbc", "\"\n"}});
}

void write_layers(const std::string& path) { write_blobs(path, layers()); }
void write_contexts(const std::string& path) { write_blobs(path, layers_with_contexts()); }
void write_factors(const std::string& path) { write_blobs(path, layers_with_factors()); }

void write_lossless(const std::string& path) {
    std::vector<Bytes> blobs;
    for (const Tensor& tensor : tensors()) {
        blobs.push_back(lossless::encode(tensor.dtype, tensor.shape, tensor.bytes));
    }
    std::vector<TensorToWrite> list;
    std::size_t i = 0;
    for (const Tensor& tensor : tensors()) {
        list.push_back({tensor.name + std::string(blob_suffix), "U8", {blobs[i].size()}, blobs[i]});
        ++i;
    }
    write_file(path, list);
}

struct Ordinary {
    std::string dtype;
    std::uint64_t width;
};
const Ordinary ordinary[] = {{"BOOL", 1}, {"U8", 1},     {"I8", 1},  {"F8_E4M3", 1}, {"F8_E5M2", 1},
                             {"U16", 2},  {"I16", 2},    {"F16", 2}, {"BF16", 2},    {"U32", 4},
                             {"I32", 4},  {"F32", 4},    {"U64", 8}, {"I64", 8},     {"F64", 8},
                             {"C64", 8},  {"F8_E8M0", 1}};

void write_ordinary(const std::string& path) {
    const Bytes bytes = skewed(64000, 1, 255);
    std::vector<TensorToWrite> tensors;
    for (const auto& [dtype, width] : ordinary) {
        tensors.push_back({"a." + dtype, dtype, {2, 3}, std::span(bytes).first(6 * width)});
        tensors.push_back({"b." + dtype, dtype, {1, 600}, std::span(bytes).first(600 * width)});
    }
    tensors.push_back({"empty", "F32", {3, 0}, {}});
    tensors.push_back({"scalar", "F64", {}, std::span(bytes).first(8)});
    write_file(path, tensors);
}

const std::pair<const char*, Writer> files[] = {
    {"contexts.safetensors", write_contexts}, {"factors.safetensors", write_factors},
    {"layers.safetensors", write_layers},     {"lossless.safetensors", write_lossless},
    {"ordinary.safetensors", write_ordinary}, {"streams.safetensors", write_streams}};

Bytes read(const std::filesystem::path& path) {
    std::ifstream stream(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(stream), std::istreambuf_iterator<char>()};
}

const std::filesystem::path golden = std::filesystem::path(TERSOR_GOLDEN) / "v1";

class Golden : public test::IsaTest {
protected:
    /// The committed file, opened and verified.
    [[nodiscard]] static File open(const char* name) {
        File file;
        throw_if_error(File::open((golden / name).string(), file), name);
        throw_if_error(file.verify(), name);
        EXPECT_TRUE(file.is_tersor());
        return file;
    }
};

TEST_P(Golden, TheBytesWrittenAreThoseOfTheVersion) {
    const char* target = std::getenv("TERSOR_WRITE_GOLDEN");
    for (const auto& [name, write] : files) {
        if (target != nullptr) write((std::filesystem::path(target) / name).string());
        const auto path = std::filesystem::path(::testing::TempDir()) /
                          ("golden_" + std::string(tersor::name(GetParam())) + name);
        write(path.string());
        EXPECT_TRUE(read(path) == read(golden / name))
            << name << " is written in another way: that needs a new version of the format";
        std::filesystem::remove(path);
    }
}

TEST_P(Golden, StreamsOfEveryKindDecode) {
    const File file = open("streams.safetensors");
    ASSERT_EQ(file.tensors().size(), streams().size());
    for (const Stream& stream : streams()) {
        const TensorView* view = file.find(stream.name);
        ASSERT_NE(view, nullptr) << stream.name;
        std::size_t kind_at = 0;  // behind the number of symbols
        while (view->bytes[kind_at++] >= 0x80) {
        }
        EXPECT_EQ(view->bytes[kind_at], stream.kind) << stream.name;
        Bytes symbols(stream.symbols.size());
        const Result result = huffman::decode(view->bytes, symbols);
        EXPECT_TRUE(result.ok()) << stream.name << ": " << describe(result.status);
        EXPECT_TRUE(symbols == stream.symbols) << stream.name;
    }
}

TEST_P(Golden, LayersOfEveryKindDecode) {
    for (const auto& [path, all] : {std::pair{"layers.safetensors", layers()},
                                    std::pair{"factors.safetensors", layers_with_factors()},
                                    std::pair{"contexts.safetensors", layers_with_contexts()}}) {
        const File file = open(path);
        EXPECT_EQ(file.metadata(), (Metadata{{"made by", "a test"}, {"\xc3\xbc", "\"\n"}}));
        ASSERT_EQ(file.tensors().size(), all.size());
        for (const auto& [name, expected] : all) {
            const TensorView* view = file.find(name + std::string(blob_suffix));
            ASSERT_NE(view, nullptr) << name;
            EXPECT_TRUE(view->compressed) << name;
            Layer decoded;
            const Result result = decode_layer(view->bytes, decoded);
            EXPECT_TRUE(result.ok()) << name << ": " << describe(result.status);
            EXPECT_TRUE(decoded == expected) << name;
        }
    }
}

TEST_P(Golden, OrdinaryTensorsAreTheirBytes) {
    const File file = open("ordinary.safetensors");
    const Bytes bytes = skewed(64000, 1, 255);
    ASSERT_EQ(file.tensors().size(), 2 * std::size(ordinary) + 2);
    for (const auto& [dtype, width] : ordinary) {
        for (const auto& [name, cols] : {std::pair{"a.", 3U}, {"b.", 600U}}) {
            const TensorView* view = file.find(name + dtype);
            ASSERT_NE(view, nullptr) << dtype;
            EXPECT_EQ(view->dtype, dtype);
            EXPECT_EQ(view->shape.back(), cols);
            EXPECT_EQ(view->offset % width, 0U) << dtype;
            EXPECT_TRUE(std::ranges::equal(view->bytes,
                                           std::span(bytes).first(view->shape[0] * cols * width)));
        }
    }
}

TEST_P(Golden, TensorsWithoutLossAreTheirBytes) {
    const File file = open("lossless.safetensors");
    ASSERT_EQ(file.tensors().size(), tensors().size());
    for (const Tensor& tensor : tensors()) {
        const TensorView* view = file.find(tensor.name + std::string(blob_suffix));
        ASSERT_NE(view, nullptr) << tensor.name;
        EXPECT_TRUE(view->compressed && view->lossless) << tensor.name;
        lossless::BlobInfo info;
        ASSERT_TRUE(lossless::inspect(view->bytes, info).ok()) << tensor.name;
        EXPECT_EQ(info.dtype, tensor.dtype) << tensor.name;
        EXPECT_EQ(info.shape, tensor.shape) << tensor.name;
        Bytes bytes(static_cast<std::size_t>(info.bytes));
        const Result result = lossless::decode(view->bytes, bytes);
        EXPECT_TRUE(result.ok()) << tensor.name << ": " << describe(result.status);
        EXPECT_TRUE(bytes == tensor.bytes) << tensor.name;
        // Who knows only layers says that a later version wrote it.
        Layer layer;
        EXPECT_EQ(decode_layer(view->bytes, layer).status, Status::unsupported_version);
    }
}

TERSOR_ON_EVERY_ISA(Golden);

}  // namespace
}  // namespace tersor
